"""Pictures that belong to a result: PNGs in `pictures` beside result.json, each saying itself what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import PIL.Image
from PIL.PngImagePlugin import PngInfo

from core.files.atomic_file import write_atomically

FOLDER = "pictures"

DETECTIONS, LABEL_MAPS, NEIGHBOURS, MAP = "detections", "label maps", "nearest neighbours", "map of features"
KINDS = (DETECTIONS, LABEL_MAPS, NEIGHBOURS, MAP)


@dataclass(frozen=True)
class Picture:
    """A PNG and what it says of itself."""

    path: Path
    kind: str
    """One of `KINDS`; empty in a picture that doesn't tell."""
    caption: str
    """A sentence for those who can't see it, too; the file's name in a picture that doesn't tell."""


def save_picture(path: Path, picture: PIL.Image.Image, kind: str, caption: str) -> None:
    """Writes a PNG with its kind (PNG keyword `Title`) and its caption (`Description`)."""
    assert kind in KINDS, kind
    told = PngInfo()
    told.add_itxt("Title", kind)
    told.add_itxt("Description", caption)
    write_atomically(path, lambda partial: picture.save(partial, format="PNG", pnginfo=told))


def find_pictures(folder: Path) -> tuple[list[Picture], list[str]]:
    """The pictures of the result in `folder` by name, and which files there are no readable PNG, with the reason."""
    pictures, unreadable = [], []
    for path in sorted((folder / FOLDER).glob("*.png")):
        try:
            with PIL.Image.open(path, formats=["PNG"]) as picture:
                picture.load()
                told = {key: str(value) for key, value in picture.info.items() if isinstance(value, str)}
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            unreadable.append(f"{path} ({error})")
            continue
        kind = told.get("Title", "")
        pictures.append(Picture(path, kind if kind in KINDS else "", told.get("Description") or path.name))
    return pictures, unreadable
