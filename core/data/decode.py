"""Decoding one image file into RGB pixels; every defect of the file becomes `BrokenImage`."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL.EpsImagePlugin
import PIL.features
import PIL.Image

from core.data.to_rgb import conversions_to_rgb, to_rgb
from core.errors import BrokenImage

PIL.Image.init()
_AVIF = "AVIF" in PIL.Image.OPEN and PIL.features.check("avif")
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", *((".avif", ".avifs") if _AVIF else ())),
)
"""Endings of image names, in any case: those that Pillow knows for `FORMATS`."""
_KNOWN = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", *(("AVIF",) if _AVIF else ()))
FORMATS = tuple(kind for kind in _KNOWN if kind in PIL.Image.OPEN)
"""Formats that a file may have, whatever its ending. Pillow knows some fifty more: for EPS it starts Ghostscript, and
few of the others were ever written with hostile files in mind."""
MAX_PIXELS = 89_478_485
"""A larger image counts as broken: a file of a hundred bytes may claim any size, and Pillow takes 8 bytes for each
pixel while it decodes. It is the size from which Pillow warns of decompression bombs."""
MAX_BYTES = 2**28
"""Larger files are never read at once."""

# For engines that open images by themselves: Pillow then refuses EPS instead of looking for Ghostscript.
PIL.EpsImagePlugin.gs_binary = False


def decode_rgb(source: Path | bytes, where: str) -> PIL.Image.Image:
    """Image as RGB, 8 bits per channel (core/data/to_rgb.py). Orientation tags are ignored, as in torchvision.

    Raises `BrokenImage`, naming `where`, for a file that is missing, truncated, of none of `FORMATS` or too large.
    """
    with opened_image(source, where) as image:
        return to_rgb(image)


def read_image_file(path: Path) -> bytes | None:
    """Content of an image file; None for one that can't be read, is no regular file or larger than `MAX_BYTES`."""
    try:
        return path.read_bytes() if path.is_file() and path.stat().st_size <= MAX_BYTES else None
    except OSError:
        return None


def conversions_of(source: Path | bytes, where: str) -> tuple[str, ...]:
    """Reasons why `decode_rgb` does not give the pixels as they are stored; reads the header alone.

    Raises `BrokenImage` as `decode_rgb` does for a damaged header.
    """
    with opened_image(source, where) as image:
        return conversions_to_rgb(image)


@contextmanager
def opened_image(source: Path | bytes, where: str) -> Iterator[PIL.Image.Image]:
    """Image whose header is read; errors within the block become `BrokenImage` too. Raises it as `decode_rgb` does."""
    try:
        if isinstance(source, Path) and source.exists() and not source.is_file():  # reading a pipe may never end
            raise BrokenImage(where, "is not a regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large but bounded images are fine; EXIF oddities don't concern pixels
            with PIL.Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BrokenImage(where, f"{image.width}×{image.height} pixels are more than {MAX_PIXELS}")
                yield image
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, PIL.Image.DecompressionBombError, MemoryError,
            TypeError, IndexError, KeyError, OverflowError, ZeroDivisionError, AttributeError, RuntimeError,
            AssertionError, NotImplementedError) as error:  # fmt: skip
        # Pillow's format plugins let all of these escape on malformed headers.
        raise BrokenImage(where, (str(error).splitlines() or [type(error).__name__])[0]) from None
