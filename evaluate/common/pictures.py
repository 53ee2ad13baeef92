"""Pictures of a result: PNGs in `pictures` next to result.json, each with its kind and caption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import PIL.Image
from PIL.PngImagePlugin import PngInfo

from core.files.atomic_file import write_atomically
from evaluate.common.registry import descriptions

FOLDER = "pictures"


@dataclass(frozen=True)
class Picture:
    """A PNG with its kind and caption."""

    path: Path
    kind: str
    """One of `picture_kinds`; empty if the file has none."""
    caption: str
    """Alternative text; the file's name if the file has none."""


def picture_kinds() -> dict[str, str]:
    """Kinds of pictures and their titles in the report, as the evaluations declare them."""
    return {kind: title for each in descriptions().values() for kind, title in each.pictures.items()}


def save_picture(path: Path, picture: PIL.Image.Image, kind: str, caption: str) -> None:
    """Writes a PNG with its kind (PNG keyword `Title`) and its caption (`Description`)."""
    assert kind in picture_kinds(), kind
    texts = PngInfo()
    texts.add_itxt("Title", kind)
    texts.add_itxt("Description", caption)
    write_atomically(path, lambda partial: picture.save(partial, format="PNG", pnginfo=texts))


def find_pictures(folder: Path) -> tuple[list[Picture], list[str]]:
    """Pictures of the result in `folder` by name, and the files that are not readable PNGs, with the reason."""
    kinds = picture_kinds()
    pictures, unreadable = [], []
    for path in sorted((folder / FOLDER).glob("*.png")):
        try:
            with PIL.Image.open(path, formats=["PNG"]) as picture:
                picture.load()
                texts = {key: str(value) for key, value in picture.info.items() if isinstance(value, str)}
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            unreadable.append(f"{path} ({error})")
            continue
        kind = texts.get("Title", "")
        pictures.append(Picture(path, kind if kind in kinds else "", texts.get("Description") or path.name))
    return pictures, unreadable
