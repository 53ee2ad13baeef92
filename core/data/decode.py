"""Decoding one image file into RGB pixels; whatever is wrong with the file becomes `BrokenImage`."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import PIL.Image

from core.errors import BrokenImage

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff")
MAX_PIXELS = 178_956_970
"""Pillow's own bound against decompression bombs (2 × MAX_IMAGE_PIXELS); a larger image counts as broken."""


def decode_rgb(source: Path | bytes, where: str) -> PIL.Image.Image:
    """The image as RGB. Orientation tags are ignored, as torchvision's ImageFolder does.

    Raises `BrokenImage`, naming `where`, for a file that is missing, truncated, not an image or too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large but bounded images are fine; EXIF oddities don't concern pixels
            with PIL.Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BrokenImage(where, f"{image.width}×{image.height} pixels are more than {MAX_PIXELS}")
                return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, PIL.Image.DecompressionBombError, MemoryError,
            TypeError, IndexError, KeyError, OverflowError, ZeroDivisionError) as error:  # fmt: skip
        # Pillow's format plugins let all of these escape on malformed headers.
        raise BrokenImage(where, (str(error).splitlines() or [type(error).__name__])[0]) from None
