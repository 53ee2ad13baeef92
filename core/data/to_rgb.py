"""One rule for every pixel format: 8-bit RGB, never clipped. `docs/data.md` has it as a table."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

HIGH_BITS = "more than 8 bits per channel: the 8 highest bits"
INTEGERS = "32-bit integer greyscale: scaled by its range"
FLOATS = "floating-point greyscale: scaled by its range"
CMYK = "CMYK: converted without a colour profile"
PALETTE = "palette: its colours"
ALPHA = "transparency: dropped, the colours below it are used"
FRAMES = "several frames or pages: the first"
ORIENTATION = "orientation tag: ignored, as in torchvision"

_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION, _SAMPLE_FORMAT = 258, 262, 274, 339  # tags of TIFF and EXIF


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Opened `image` as RGB, decoded.

    Greyscale of more than 8 bits per value keeps its 8 highest bits, as torchvision's `to_dtype` and Pillow's own
    reading of 16-bit colour do. 32-bit integers and floats have no fixed range: `scaled`. Alpha is dropped, as by
    `convert("RGB")`. Raises `ValueError` for values that are not finite and for modes that Pillow can't convert.
    """
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and _is_16_bit(image)):
        grey = PIL.Image.fromarray(_high_bits(image))
    elif mode == "I":
        values = np.asarray(image)
        if _tag(image, _SAMPLE_FORMAT, 2) == 1:  # Pillow reads unsigned values as signed ones
            values = values.view(np.uint32)
        grey = PIL.Image.fromarray(scaled(values.astype(np.float64), (255, 65535)))
    elif mode == "F":
        grey = PIL.Image.fromarray(scaled(np.asarray(image, dtype=np.float64), (1, 255, 65535)))
    elif mode in ("RGBa", "La"):  # colours multiplied by alpha
        return image.convert("RGBA" if mode == "RGBa" else "LA").convert("RGB")
    else:
        return image.convert("RGB")
    return grey.convert("RGB")


def scaled(values: NDArray[np.float64], ranges: tuple[int, ...]) -> NDArray[np.uint8]:
    """Values [H, W] as 0 … 255: from the first range 0 … r that holds all of them, else from their own min … max.

    A range of 65535 keeps the high byte, as for 16-bit files; others are rounded.
    """
    if not np.isfinite(values).all():
        raise ValueError("holds values that are not finite")
    low, high = float(values.min()), float(values.max())
    top = next((top for top in ranges if low >= 0 and high <= top), None)
    if top == 65535:
        return np.floor(values / 256).astype(np.uint8)
    if top is None:
        values, top = (values - low) / ((high - low) or 1), 1
    return np.round(values * (255 / top)).astype(np.uint8)


def conversions_to_rgb(image: PIL.Image.Image) -> tuple[str, ...]:
    """Reasons why `to_rgb` does not give the stored pixels of an opened image; decodes none of them."""
    mode, reasons = image.mode, []
    raw = [text for tile in getattr(image, "tile", ()) for text in _texts(tile[3])]
    if mode.startswith("I;16") or (mode == "I" and _is_16_bit(image)) or any(";16" in text for text in raw):
        reasons.append(HIGH_BITS)
    elif mode in ("I", "F"):
        reasons.append(INTEGERS if mode == "I" else FLOATS)
    if mode == "CMYK":
        reasons.append(CMYK)
    if mode in ("P", "PA"):
        reasons.append(PALETTE)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        reasons.append(ALPHA)
    if getattr(image, "is_animated", False):
        reasons.append(FRAMES)
    if ignored_orientation(image) != 1:
        reasons.append(ORIENTATION)
    return tuple(reasons)


def ignored_orientation(image: PIL.Image.Image) -> int:
    """EXIF orientation of an opened image, 1 … 8; 1 if there is none. Pillow applies that of a TIFF itself.

    `Image.getexif` would decode a PNG without the tag.
    """
    exif, found = PIL.Image.Exif(), 1
    with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):  # damage there spares the pixels
        exif.load(image.info.get("exif", b"") if image.format != "TIFF" else b"")
        found = exif.get(_ORIENTATION, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _is_16_bit(image: PIL.Image.Image) -> bool:
    """True for formats whose mode `I` holds 0 … 65535: PNG, and PPM, whose values Pillow scales to that range."""
    return image.format in ("PNG", "PPM")


def _high_bits(image: PIL.Image.Image) -> NDArray[np.uint8]:
    values = np.asarray(image).astype(np.int64)
    bits = _tag(image, _BITS_PER_SAMPLE, 16)
    if _tag(image, _PHOTOMETRIC, 1) == 0:  # white is zero; Pillow inverts 8-bit values only
        values = 2**bits - 1 - values
    return (values >> (bits - 8)).astype(np.uint8)


def _tag(image: PIL.Image.Image, tag: int, default: int) -> int:
    """First value of a TIFF tag; `default` for other formats and absent tags."""
    value: Any = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _texts(arguments: Any) -> list[str]:
    """Raw modes among the arguments of a decoder."""
    given = arguments if isinstance(arguments, tuple) else (arguments,)
    return [text for text in given if isinstance(text, str)]
