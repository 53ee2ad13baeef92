"""Label files: whether they can be what they should, what they hold, and what the majority class gets."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from core.data.decode import FORMATS
from core.errors import BrokenImage, UserError
from evaluate.segmentation.protocol import SegmentDataConfig

IGNORED = 255
"""Label of pixels that count neither in training nor in the metrics."""
# What Pillow's format plugins let escape on malformed files.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, TypeError, IndexError, KeyError, MemoryError,
               OverflowError, ZeroDivisionError, PIL.Image.DecompressionBombError)  # fmt: skip


def check_pair(image: Path, label: Path, config: SegmentDataConfig) -> None:
    """Reads the headers of both files.

    Raises `BrokenImage` for one that is no image, and `UserError` for a pair that can't be used: labels in colour or of
    16 bits, a palette where the layout has grey labels, image and label of different sizes.
    """
    size, _ = _header(image)
    label_size, mode = _header(label)
    if mode == "P" and config.layout != "voc12aug":
        raise UserError(
            f"{label} is a palette PNG, whose numbers may be colours and no classes; the labels of "
            f"{config.layout} are grey: save the class numbers with PIL.Image.fromarray(…) in mode L"
        )
    if mode not in ("L", "P"):
        raise UserError(f"{label} is of mode {mode}, labels are 8-bit class numbers; save them in mode L")
    if size != label_size:
        raise UserError(
            f"{image} is {size[0]}×{size[1]} and its label {label.name} {label_size[0]}×{label_size[1]} pixels; "
            f"make both of one size"
        )


def _header(file: Path) -> tuple[tuple[int, int], str]:
    try:
        with PIL.Image.open(file, formats=FORMATS) as picture:
            return picture.size, picture.mode
    except _UNREADABLE as error:
        raise _broken(file, error) from None


def _broken(file: Path, error: BaseException) -> BrokenImage:
    if isinstance(error, PIL.UnidentifiedImageError):
        return BrokenImage(str(file), "is not an image")
    return BrokenImage(str(file), (str(error).splitlines() or [type(error).__name__])[0])


def read_label(file: Path, config: SegmentDataConfig) -> NDArray[np.uint8]:
    """Class of each pixel, 0 … classes − 1 or 255 for ignored, [H, W].

    Raises `BrokenImage` for a file that can't be decoded, and `UserError` for any other value.
    """
    try:
        with PIL.Image.open(file, formats=FORMATS) as picture:
            stored = np.array(picture)
    except _UNREADABLE as error:
        raise _broken(file, error) from None
    if config.zero_is_nothing:
        stored = np.where((stored == 0) | (stored == IGNORED), IGNORED, stored - np.uint8(1)).astype(np.uint8)
    check_values(stored, config, str(file))
    return stored


def check_values(classes: NDArray[np.uint8], config: SegmentDataConfig, file: str) -> None:
    """Raises `UserError` where a pixel is neither of a class nor ignored. `classes`: as `read_label` gives them."""
    wrong = classes[(classes >= config.classes) & (classes != IGNORED)]
    if len(wrong):
        first = 1 if config.zero_is_nothing else 0
        nothing = "0 and 255" if first else "255"
        raise UserError(
            f"{file} holds the label {int(wrong.max()) + first}, but {config.classes} classes are "
            f"{first} … {config.classes - 1 + first} ({nothing} for no label); mend the labels or set data.classes"
        )


@dataclass(frozen=True)
class Baseline:
    """What the class most frequent in training gets when it is given to every pixel of the test images."""

    label: int
    """The class."""
    mean_iou: float
    """Percent, over the classes that occur in the test images or are predicted."""
    pixel_accuracy: float
    """Percent of the pixels."""


def majority_baseline(train: NDArray[np.int64], test: NDArray[np.int64]) -> Baseline:
    """The baseline from the pixels of each class in training and test, both [classes]."""
    label = int(train.argmax())
    share = test[label] / test.sum()
    present = test > 0
    present[label] = True
    return Baseline(label, 100 * float(share / present.sum()), 100 * float(share))
