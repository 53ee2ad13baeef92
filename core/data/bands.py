"""Images of 1 … 16 channels: multi-page or multi-band TIFF, and NumPy arrays."""

from __future__ import annotations

import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from core.data.decode import MAX_PIXELS, opened_image
from core.data.to_rgb import scaled
from core.errors import BrokenImage

BAD_ARRAY = (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, OverflowError, SyntaxError,
             tokenize.TokenError)  # fmt: skip
"""Errors of NumPy's reader of arrays for damaged files."""
ARRAY = ".npy"
"""Ending of NumPy arrays; images with other endings are decoded by Pillow."""


@dataclass(frozen=True)
class BandImage:
    """An image of any number of channels with those methods of Pillow's images that crops and resizes need."""

    bands: tuple[PIL.Image.Image, ...]
    """One 8-bit greyscale image per channel, all of one size."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.bands[0].size

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.bands[0].width

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.bands[0].height

    def each(self, change: Callable[[PIL.Image.Image], PIL.Image.Image]) -> BandImage:
        """The image with `change` applied to every channel."""
        return BandImage(tuple(change(band) for band in self.bands))

    def crop(self, box: tuple[int, int, int, int]) -> BandImage:
        """The part `box` (left, top, right, bottom)."""
        return self.each(lambda band: band.crop(box))

    def resize(self, size: tuple[int, int], resample: PIL.Image.Resampling) -> BandImage:
        """The image resized to `size` (width, height)."""
        return self.each(lambda band: band.resize(size, resample))

    def transpose(self, method: PIL.Image.Transpose) -> BandImage:
        """The image flipped or turned."""
        return self.each(lambda band: band.transpose(method))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.uint8]:
        """Pixels [H, W, C]."""
        return np.stack([np.asarray(band) for band in self.bands], axis=-1).astype(dtype or np.uint8)


def decode_bands(source: Path, channels: int) -> BandImage:
    """Image of exactly `channels` channels, 8 bits each.

    An array has the shape [H, W, C], or [H, W] for one channel. The pages of a TIFF are channels in their order, and so
    are the bands of each. 16-bit values keep their high byte; floats are scaled from 0 … 1, 0 … 255 or 0 … 65535,
    whichever holds all of them first. Raises `BrokenImage` for other numbers of channels and unreadable files.
    """
    where = str(source)
    values = _array(source, where) if source.suffix.lower() == ARRAY else _pages(source, where)
    if values.shape[2] != channels:
        raise BrokenImage(where, f"has {values.shape[2]} channels, not {channels}")
    return BandImage(tuple(PIL.Image.fromarray(np.ascontiguousarray(values[:, :, band])) for band in range(channels)))


def _array(source: Path, where: str) -> NDArray[np.uint8]:
    try:
        if source.exists() and not source.is_file():  # reading a pipe may never end
            raise BrokenImage(where, "is not a regular file")
        values = np.load(source, mmap_mode="r", allow_pickle=False)
    except BAD_ARRAY as error:
        raise BrokenImage(where, (str(error).splitlines() or [type(error).__name__])[0]) from None
    if not isinstance(values, np.ndarray) or values.ndim not in (2, 3) or 0 in values.shape:
        raise BrokenImage(where, f"is no array [H, W, C] but {getattr(values, 'shape', 'several')}")
    if values.size > MAX_PIXELS:
        raise BrokenImage(where, f"{values.size} values are more than {MAX_PIXELS}")
    return _eight_bits(np.atleast_3d(np.asarray(values)), where)


def _pages(source: Path, where: str) -> NDArray[np.uint8]:
    with opened_image(source, where) as image:
        pages = []
        for page in range(getattr(image, "n_frames", 1)):
            image.seek(page)
            if (page + 1) * image.width * image.height > MAX_PIXELS:
                raise BrokenImage(where, f"more than {MAX_PIXELS} pixels in {page + 1} pages")
            shown = image if image.mode != "P" else image.convert("RGB")
            pages.append(np.atleast_3d(np.asarray(shown)))
        if len({page.shape[:2] for page in pages}) > 1:
            raise BrokenImage(where, "has pages of different sizes")
        return _eight_bits(np.concatenate(pages, axis=2), where)


def _eight_bits(values: NDArray[Any], where: str) -> NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    if values.dtype.kind not in "iuf":
        raise BrokenImage(where, f"holds values of the type {values.dtype}, not numbers")
    ranges = (1, 255, 65535) if values.dtype.kind == "f" else (255, 65535)
    try:
        return scaled(values.astype(np.float64), ranges)
    except ValueError as error:
        raise BrokenImage(where, str(error)) from None
