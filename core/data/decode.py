"""Decoding one image file into RGB pixels; whatever is wrong with the file becomes `BrokenImage`."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import PIL.EpsImagePlugin
import PIL.Image

from core.errors import BrokenImage

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
PIL.Image.init()
FORMATS = tuple(kind for kind in ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP") if kind in PIL.Image.OPEN)
"""What a file may be, whatever its name ends with. Pillow knows some fifty formats more: for EPS it starts Ghostscript,
and few of the others were ever written with hostile files in mind."""
MAX_PIXELS = 89_478_485
"""A larger image counts as broken: a file of a hundred bytes may claim any size, and Pillow takes 8 bytes for each
pixel while it decodes. It is the size from which Pillow warns of decompression bombs."""

# For engines that open images by themselves: Pillow then refuses EPS instead of looking for Ghostscript.
PIL.EpsImagePlugin.gs_binary = False


def decode_rgb(source: Path | bytes, where: str) -> PIL.Image.Image:
    """The image as RGB. Orientation tags are ignored, as torchvision's ImageFolder does.

    Raises `BrokenImage`, naming `where`, for a file that is missing, truncated, of none of `FORMATS` or too large.
    """
    try:
        if isinstance(source, Path) and source.exists() and not source.is_file():  # reading a pipe may never end
            raise BrokenImage(where, "is no regular file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large but bounded images are fine; EXIF oddities don't concern pixels
            with PIL.Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BrokenImage(where, f"{image.width}×{image.height} pixels are more than {MAX_PIXELS}")
                return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, PIL.Image.DecompressionBombError, MemoryError,
            TypeError, IndexError, KeyError, OverflowError, ZeroDivisionError, AttributeError, RuntimeError,
            AssertionError, NotImplementedError) as error:  # fmt: skip
        # Pillow's format plugins let all of these escape on malformed headers.
        raise BrokenImage(where, (str(error).splitlines() or [type(error).__name__])[0]) from None
