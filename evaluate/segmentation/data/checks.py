"""The look at all files before training: what can't be used, what is broken, how often each class occurs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from core.data.broken import BrokenImages
from core.data.decode import decode_rgb
from core.errors import BrokenImage, UserError
from evaluate.segmentation.data.labels import check_pair, read_label
from evaluate.segmentation.protocol import SegmentDataConfig

_COUNTED = 2000


@dataclass(frozen=True)
class Checked:
    """What is known of a split before training."""

    counts: NDArray[np.int64]
    """Pixels of each class, [classes]; ignored ones are not counted."""
    left_out: tuple[int, ...]
    """Positions of the samples that are broken."""
    broken: tuple[str, ...]
    """Their files, and what is wrong with them."""


def check_split(
    pairs: Sequence[tuple[Path, Path]], config: SegmentDataConfig, what: str, whole: bool, progress: bool = False
) -> Checked:
    """Reads the headers of all images and labels of the split `what`, and decodes them all (`whole`) or 2,000 labels
    evenly spread.

    Raises `UserError`, naming the first file, for what can't be used, and for more than `broken_share` broken ones.
    """
    counts, left_out = np.zeros(256, np.int64), []
    account = BrokenImages(len(pairs), config.broken_share)
    counted = set(spread(len(pairs), len(pairs) if whole else _COUNTED))
    bar = tqdm(pairs, desc=f"checking {what}", unit="image", disable=not progress)
    for position, (image, label) in enumerate(bar):
        try:
            check_pair(image, label, config)
            if whole:
                decode_rgb(image, str(image))
            if position in counted:
                counts += np.bincount(read_label(label, config).ravel(), minlength=256)
        except BrokenImage as error:
            left_out.append(position)
            account.add([str(error)])
    if not counts[: config.classes].any():
        raise UserError(f"no pixel of the {what} labels has a class, all are ignored; check the labels")
    return Checked(counts[: config.classes], tuple(left_out), tuple(account.names))


def check_apart(pairs: dict[str, list[tuple[Path, Path]]]) -> None:
    """Raises `UserError` where an image is trained on and tested."""
    both = {image for image, _ in pairs["train"]} & {image for image, _ in pairs["val"]}
    if both:
        raise UserError(
            f"{len(both)} test images are among the training images, e.g. {min(both)}; take them out of the lists of "
            f"training images"
        )


def spread(total: int, most: int) -> list[int]:
    """At most `most` of the positions 0 … total − 1, evenly spread."""
    return list(range(total)) if total <= most else np.linspace(0, total - 1, most).astype(int).tolist()
