"""Validates all files before training."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from core.data.account import Account
from core.data.broken import BrokenImages
from core.data.decode import decode_rgb
from core.errors import BrokenImage, UserError
from evaluate.segmentation.data.headers import split_headers
from evaluate.segmentation.data.labels import IGNORED, Header, check_pair, read_stored, to_classes
from evaluate.segmentation.data.layouts import Samples
from evaluate.segmentation.protocol import InferenceConfig, SegmentDataConfig

_MAX_COUNTED = 2000


@dataclass(frozen=True)
class Checked:
    """Facts about a split, known before training."""

    stored: NDArray[np.int64]
    """Pixels by stored number, [256], over the decoded labels."""
    counts: NDArray[np.int64]
    """Pixels of each class, [classes], over the decoded labels; ignored ones are not counted."""
    skipped: tuple[int, ...]
    """Positions of the broken samples."""
    broken: tuple[str, ...]
    """Their files, each with the reason."""
    account: Account
    """Files that are not used as they are stored."""
    sizes: frozenset[tuple[int, int]]
    """Widths and heights of the images."""


def check_split(
    pairs: Sequence[tuple[Path, Path]], config: SegmentDataConfig, what: str, whole: bool, progress: bool = False
) -> Checked:
    """Reads the headers of all images and labels of the split `what`.

    Decodes all of them (`whole`) or 2,000 evenly spaced labels. Raises `UserError`, naming the first file, for data
    that can't be used and for more than `broken_share` broken samples.
    """
    stored, skipped = np.zeros(256, np.int64), []
    account, converted, sizes = BrokenImages(len(pairs), config.broken_share), Counter[str](), set()
    palette = _Palette()
    known = split_headers(pairs)
    counted = set(spread(len(pairs), len(pairs) if whole else _MAX_COUNTED))
    bar = tqdm(pairs, desc=f"checking {what}", unit="image", disable=not progress)
    for position, (image, label) in enumerate(bar):
        try:
            headers = check_pair(image, label, config, known)
            if config.layout != "voc12aug":
                palette.check(headers[1], label)
            converted.update(_conversions(*headers, config))
            if whole:
                decode_rgb(image, str(image))
            if position in counted:
                numbers = read_stored(label, config)
                to_classes(numbers, config, label)
                stored += np.bincount(numbers.ravel(), minlength=256)
            sizes.add(headers[0].size)
        except BrokenImage as error:
            skipped.append(position)
            account.add([str(error)])
    first = int(config.reduce_zero_label)
    counts = stored[first : first + config.classes]
    if not counts.any():
        raise UserError(f"no pixel of the {what} labels has a class, all are ignored; check the labels")
    return Checked(stored, counts, tuple(skipped), tuple(account.names), Account(converted=converted), frozenset(sizes))


def _conversions(image: Header, label: Header, config: SegmentDataConfig) -> list[str]:
    found = list(image.conversions)
    if label.orientation != 1:
        found.append("label with an orientation tag: ignored")
    if label.mode == "P" and config.layout != "voc12aug":
        found.append("label with a palette: positions in it")
    if bits := re.fullmatch(r"L;([24])I?R?", label.raw):
        found.append(f"label of {bits[1]} bits: its numbers")
    if label.raw in ("1;I", "L;I", "L;2I", "L;4I", "1;IR", "L;IR", "L;2IR", "L;4IR"):
        found.append("label stored with white as 0: its numbers")
    if label.mode not in ("L", "P"):
        found.append(f"label of mode {label.mode}: its numbers")
    return found


class _Palette:
    """The palette of a split's labels: class numbers are positions in it only if all files share it."""

    def __init__(self) -> None:
        self.colours, self.file = b"", Path()

    def check(self, label: Header, file: Path) -> None:
        """Raises `UserError` if the palette differs from those before; a shorter one must be the beginning."""
        shared = min(len(self.colours), len(label.palette))
        if self.colours[:shared] != label.palette[:shared]:
            raise UserError(
                f"{self.file} and {file} have different palettes, so the numbers in them may not be classes; save the "
                f"class numbers with PIL.Image.fromarray(…) in mode L"
            )
        if len(label.palette) > len(self.colours):
            self.colours, self.file = label.palette, file


def check_apart(samples: Mapping[str, Samples]) -> None:
    """Raises `UserError` if an image is both trained on and tested."""
    both = {image for image, _ in samples["train"].pairs} & {image for image, _ in samples["val"].pairs}
    if both:
        raise UserError(
            f"{len(both)} test images are also training images, e.g. {min(both)}; remove them from the lists of "
            f"training images"
        )


def label_facts(found: Checked, config: SegmentDataConfig, names: Sequence[str]) -> dict[str, object]:
    """Facts about the decoded labels of a split for result.json: ignored pixels by number, classes that never occur."""
    total = int(found.stored.sum())
    ignored = {str(number): int(found.stored[number]) for number in _ignored_numbers(config) if found.stored[number]}
    absent = [name for name, number in zip(names, found.counts, strict=True) if not number]
    return {"first": int(config.reduce_zero_label), "pixels": total, "ignored": ignored, "absent": absent}


def may_count_from_zero(checked: Mapping[str, Checked], config: SegmentDataConfig) -> bool:
    """True if labels may start at 0 while the settings do not say so: 0 occurs, the last class never does."""
    if config.layout != "ade20k" or config.first_label is not None:
        return False
    stored = np.sum([found.stored for found in checked.values()], axis=0)
    return bool(stored[0] and not stored[config.classes])


def largest_test_batch(sizes: Iterable[tuple[int, int]], inference: InferenceConfig) -> int:
    """`inference.batch`, or 1 if the test images differ in size when the network sees them. Needs MMSegmentation."""
    from mmcv import rescale_size

    seen = {size if inference.scale is None else rescale_size(size, inference.scale) for size in sizes}
    return inference.batch if len(seen) == 1 else 1


def _ignored_numbers(config: SegmentDataConfig) -> tuple[int, ...]:
    return (0, IGNORED) if config.reduce_zero_label else (IGNORED,)


def spread(total: int, most: int) -> list[int]:
    """At most `most` of the positions 0 … total − 1, evenly spaced."""
    return list(range(total)) if total <= most else np.linspace(0, total - 1, most).astype(int).tolist()
