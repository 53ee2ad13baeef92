"""Label files: checks of the header, class of each pixel, and the score of the majority class."""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from core.data.decode import FORMATS
from core.data.to_rgb import conversions_to_rgb, ignored_orientation
from core.errors import BrokenImage, UserError
from evaluate.segmentation.protocol import SegmentDataConfig

IGNORED = 255
"""Label of pixels that count neither in training nor in the metrics."""
_GREY = ("1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of one channel of integers."""
# Exceptions that Pillow's format plugins raise for malformed files.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, TypeError, IndexError, KeyError, MemoryError,
               OverflowError, ZeroDivisionError, PIL.Image.DecompressionBombError)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """Header of an image file."""

    size: tuple[int, int]
    """Width and height of the stored pixels."""
    mode: str
    """Pillow's mode."""
    orientation: int
    """EXIF orientation tag; 1: none or upright, 5 … 8: width and height change places."""
    palette: bytes
    """RGB triples of the palette; empty if there is none."""
    conversions: tuple[str, ...]
    """Reasons why the image is not used as it is stored."""
    raw: str = ""
    """Pillow's name of the stored pixels, `L;4` for greyscale of 4 bits; empty if it is the mode."""


def check_pair(
    image: Path, label: Path, config: SegmentDataConfig, known: Mapping[Path, Header | BrokenImage] | None = None
) -> tuple[Header, Header]:
    """Headers of both files: those of `known`, or else read here.

    Raises `BrokenImage` for a file that is not an image, and `UserError` for a pair that can't be used: labels that are
    not class numbers, image and label of different sizes.
    """
    pixels, classes = (read_header(file) if known is None else known[file] for file in (image, label))
    for header in (pixels, classes):
        if isinstance(header, BrokenImage):
            raise header
    assert isinstance(pixels, Header)
    assert isinstance(classes, Header)
    if classes.mode == "P" and config.layout != "voc12aug" and _is_grey_ramp_out_of_order(classes.palette):
        raise UserError(
            f"{label} is a palette image of grey values, so its numbers may be positions in the palette instead of "
            f"classes; save the class numbers with PIL.Image.fromarray(…) in mode L"
        )
    if classes.mode not in (*_GREY, "P"):
        raise UserError(
            f"{label} is of mode {classes.mode}; labels are one number per pixel: save class numbers in mode L"
        )
    if pixels.size != classes.size:
        turned = pixels.orientation >= 5 and pixels.size == classes.size[::-1]
        way_out = "make both the same size"
        if turned:
            way_out = "its orientation tag swaps the sides: save it upright with PIL.ImageOps.exif_transpose"
        raise UserError(
            f"{image} is {pixels.size[0]}×{pixels.size[1]} and its label {label.name} {classes.size[0]}×"
            f"{classes.size[1]} pixels; {way_out}"
        )
    return pixels, classes


def read_header(file: Path) -> Header:
    """Header of an image file, without decoding it. Raises `BrokenImage`."""
    try:
        with warnings.catch_warnings(action="ignore"), PIL.Image.open(file, formats=FORMATS) as picture:
            conversions, raw = conversions_to_rgb(picture), _raw(picture)
            return Header(picture.size, picture.mode, ignored_orientation(picture), _palette(picture), conversions, raw)
    except _UNREADABLE as error:
        raise _broken(file, error) from None


def _palette(picture: PIL.Image.Image) -> bytes:
    if picture.mode != "P" or picture.palette is None:
        return b""
    if picture.palette.rawmode == "RGB":  # as in PNG: known without decoding
        return bytes(picture.palette.palette)
    return bytes(picture.getpalette() or [])


def _is_grey_ramp_out_of_order(palette: bytes) -> bool:
    """True if all colours are grey but not the grey value of their position: a compressed grey image."""
    colours = np.frombuffer(palette[: len(palette) // 3 * 3], np.uint8).reshape(-1, 3)
    grey = (colours == colours[:, :1]).all()
    return bool(grey and (colours[:, 0] != np.arange(len(colours))).any())


def _broken(file: Path, error: BaseException) -> BrokenImage:
    if isinstance(error, PIL.UnidentifiedImageError):
        return BrokenImage(str(file), "is not an image")
    return BrokenImage(str(file), (str(error).splitlines() or [type(error).__name__])[0])


def read_stored(file: Path, config: SegmentDataConfig) -> NDArray[np.uint8]:
    """Number stored for each pixel, [H, W]. Raises `BrokenImage`, and `UserError` for numbers outside 0 … 255."""
    try:
        with PIL.Image.open(file, formats=FORMATS) as picture:
            raw = _raw(picture)
            stored = _undone(np.array(picture), raw)
    except _UNREADABLE as error:
        raise _broken(file, error) from None
    if stored.ndim != 2:
        raise UserError(f"{file} has {stored.shape[-1]} channels; labels are one number per pixel")
    if stored.dtype != np.uint8:
        wrong = stored[(stored < 0) | (stored > IGNORED)]
        if wrong.size:
            raise UserError(_no_class(file, int(wrong.max()), config))
        stored = stored.astype(np.uint8)
    return stored


def _raw(picture: PIL.Image.Image) -> str:
    """Pillow's name of the pixels that a file stores; empty if it is the mode of the picture."""
    tiles: Any = getattr(picture, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw if isinstance(raw, str) and raw != picture.mode else ""


def _undone(values: NDArray[Any], raw: str) -> NDArray[Any]:
    """The stored numbers, where Pillow stretches greyscale of 2 or 4 bits to 0 … 255, and inverts white as 0."""
    found = re.fullmatch(r"(1|L);([24]?)(I?)R?", raw)
    if found is None:
        return values
    if found[3]:
        values = ~values if values.dtype == np.bool_ else (255 - values).astype(np.uint8)
    return values // np.uint8(255 // (2 ** int(found[2]) - 1)) if found[2] else values


def to_classes(stored: NDArray[np.uint8], config: SegmentDataConfig, file: Path) -> NDArray[np.uint8]:
    """Class of each pixel, 0 … classes − 1 or 255 for ignored, [H, W]. Raises `UserError` for any other number."""
    classes = stored
    if config.reduce_zero_label:
        classes = np.where((stored == 0) | (stored == IGNORED), IGNORED, stored - np.uint8(1)).astype(np.uint8)
    wrong = stored[(classes >= config.classes) & (classes != IGNORED)]
    if wrong.size:
        raise UserError(_no_class(file, int(wrong.max()), config))
    return classes


def read_label(file: Path, config: SegmentDataConfig) -> NDArray[np.uint8]:
    """Class of each pixel, 0 … classes − 1 or 255 for ignored, [H, W].

    Raises `BrokenImage` for a file that can't be decoded, and `UserError` for a number that is not a class.
    """
    return to_classes(read_stored(file, config), config, file)


def _no_class(file: Path, number: int, config: SegmentDataConfig) -> str:
    first = int(config.reduce_zero_label)
    nothing = "0 and 255" if first else "255"
    other = ", or data.first_label=1" if config.first_label == 0 and number == config.classes else ""
    return (
        f"{file} holds the label {number}, but {config.classes} classes are {first} … {config.classes - 1 + first} "
        f"({nothing} for no label); fix the labels or set data.classes{other}"
    )


@dataclass(frozen=True)
class Baseline:
    """Scores of giving the most frequent training class to every pixel of the test images."""

    label: int
    """The class."""
    mean_iou: float
    """Percent, over the classes that occur in the test images or are predicted."""
    pixel_accuracy: float
    """Percent of the pixels."""


def majority_baseline(train: NDArray[np.int64], test: NDArray[np.int64]) -> Baseline:
    """Baseline from the pixels of each class in training and test, both [classes]."""
    label = int(train.argmax())
    share = test[label] / test.sum()
    present = test > 0
    present[label] = True
    return Baseline(label, 100 * float(share / present.sum()), 100 * float(share))
