"""Sizes and orientation of images, read from their headers before training, and their pixels in the listed frame.

An orientation tag may swap width and height. Detectron2 applies it, labelling tools do or don't: the size in the
annotations shows which frame their boxes are in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from core.data import header_cache
from core.data.decode import decode_rgb, opened_image
from core.data.to_rgb import ORIENTATION, conversions_to_rgb
from core.errors import BrokenImage

ORIENTED = "orientation tag: applied, as in Detectron2"
UNORIENTED = "orientation tag: ignored, because the annotations list the size of the stored pixels"

_TAG = 274
_SWAPPED = (5, 6, 7, 8)
# The tag names the place of the first row and column: https://exif.org/Exif2-2.PDF, section 4.6.4 A.
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Header:
    """Facts about an image that need none of its pixels."""

    width: int
    """Columns of stored pixels."""
    height: int
    """Rows of stored pixels."""
    orientation: int = 1
    """EXIF's tag, 1 … 8; 1: stored upright."""
    conversions: tuple[str, ...] = ()
    """Reasons why the pixels are not used as they are stored (core/data/to_rgb.py), without the orientation."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height after the orientation is applied."""
        return (self.height, self.width) if self.orientation in _SWAPPED else (self.width, self.height)


def read_header(path: Path) -> Header:
    """Header of one image. Raises `BrokenImage`."""
    with opened_image(path, str(path)) as image:
        conversions = tuple(reason for reason in conversions_to_rgb(image) if reason != ORIENTATION)
        # Pillow turns TIFFs by itself, and would decode a whole PNG if not called by its base class.
        tag = 1 if image.format == "TIFF" else PIL.Image.Image.getexif(image).get(_TAG, 1)
        return Header(image.width, image.height, tag if tag in _UPRIGHT else 1, conversions)


def read_headers(folder: Path, names: Iterable[str]) -> dict[str, Header | BrokenImage]:
    """Header of each file below `folder`, or the reason why there is none (core/data/header_cache.py)."""
    files = {name: folder / name for name in names}
    return header_cache.read_headers(f"detection {folder.resolve()}", files, read_header, _encode, _decode)


def read_pixels(record: dict[str, Any]) -> PIL.Image.Image:
    """RGB pixels of a checked record, upright where its `orientation` says so. Raises `BrokenImage`."""
    image = decode_rgb(Path(record["file_name"]), record["file_name"])
    turn = _UPRIGHT.get(record.get("orientation", 1))
    return image if turn is None else image.transpose(turn)


def _encode(headers: Mapping[str, Header]) -> dict[str, list[Any]]:
    return {name: [one.width, one.height, one.orientation, list(one.conversions)] for name, one in headers.items()}


def _decode(entries: Any) -> dict[str, Header]:
    return {
        name: Header(int(width), int(height), int(orientation), tuple(map(str, reasons)))
        for name, (width, height, orientation, reasons) in entries.items()
    }
