"""Sizes and orientation of images, read from their headers before training, and their pixels in the listed frame.

An orientation tag may swap width and height. Detectron2 applies it, labelling tools do or don't: the size in the
annotations shows which frame their boxes are in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import PIL.Image

from core.data.decode import decode_rgb, opened_image
from core.data.to_rgb import ORIENTATION, conversions_to_rgb
from core.errors import BrokenImage
from core.files.atomic_file import write_atomically
from core.files.cache_folder import cache_folder

ORIENTED = "orientation tag: applied, as in Detectron2"
UNORIENTED = "orientation tag: ignored, because the annotations list the size of the stored pixels"

_CACHED_FROM = 5000
"""Images from which headers are cached; fewer take a second."""
_THREADS = 8
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
    """Header of each file below `folder`, or the reason why there is none.

    About 0.1 ms each, plus the disk. Many headers are cached by path, size and modification time of the file.
    """
    names = list(dict.fromkeys(names))
    cached = cache_folder() / "image-headers" / f"{sha256(str(folder.resolve()).encode()).hexdigest()}.json"
    known = _read_cache(cached) if len(names) >= _CACHED_FROM else {}

    def look(name: str) -> tuple[list[int], Header | BrokenImage]:
        path = folder / name
        try:
            stat = path.stat()
            state = [stat.st_size, stat.st_mtime_ns]
            entry = known.get(name)
            return state, entry[1] if entry is not None and entry[0] == state else read_header(path)
        except OSError as error:
            return [], BrokenImage(str(path), error.strerror or "can't be read")
        except BrokenImage as error:
            return [], error

    with ThreadPoolExecutor(_THREADS) as threads:
        found = dict(zip(names, threads.map(look, names), strict=True))
    fresh = {name: entry for name, entry in found.items() if isinstance(entry[1], Header)}
    if len(names) >= _CACHED_FROM and fresh != known:
        _write_cache(cached, fresh)
    return {name: header for name, (_, header) in found.items()}


def read_pixels(record: dict[str, Any]) -> PIL.Image.Image:
    """RGB pixels of a checked record, upright where its `orientation` says so. Raises `BrokenImage`."""
    image = decode_rgb(Path(record["file_name"]), record["file_name"])
    turn = _UPRIGHT.get(record.get("orientation", 1))
    return image if turn is None else image.transpose(turn)


def _read_cache(file: Path) -> dict[str, tuple[list[int], Header]]:
    """Cached headers with size and time of their files; empty for a damaged file, which is then written again."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return {
            name: ([int(size), int(time)], Header(int(width), int(height), int(orientation), tuple(map(str, reasons))))
            for name, (size, time, width, height, orientation, reasons) in entries.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _write_cache(file: Path, entries: dict[str, tuple[list[int], Any]]) -> None:
    plain = {
        name: [*state, header.width, header.height, header.orientation, list(header.conversions)]
        for name, (state, header) in entries.items()
    }
    text = json.dumps(plain)
    write_atomically(file, lambda partial: partial.write_text(text, encoding="utf-8"))
