"""A split with boxes and masks as Detectron2 wants it, and what every loader of such a split checks."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.data.broken import BrokenImages
from core.errors import UserError

XYWH_ABS = 1
"""Detectron2's number of the box format left, top, width, height."""
_MARGIN = 2.0


@dataclass(frozen=True)
class DetectionSet:
    """One split. Images that are missing and boxes that are impossible are left out and named."""

    name: str
    """What it is, for plans and results."""
    records: list[dict[str, Any]]
    """Detectron2's dictionaries, one per image; categories count from 0."""
    classes: tuple[str, ...]
    """Names of the categories, in the order of their numbers."""
    category_ids: tuple[int, ...]
    """The numbers that the annotation file gives them."""
    digest: str
    """sha256 (hex) of the annotations."""
    left_out: tuple[str, ...]
    """Which images and boxes, each with its reason."""
    truth: Any
    """What the evaluation compares with: COCO's document (of the test split), or VOC's folder."""


def present(folder: Path, names: Iterable[str], share: float) -> tuple[set[str], list[str]]:
    """Names of the images that are files in `folder`, and a message for each that isn't.

    Raises `UserError` where there is no such folder, or more than `share` of the images are missing.
    """
    names = list(names)
    try:
        there = {entry.name for entry in os.scandir(folder)}
    except OSError as error:
        raise UserError(f"can't read the image folder {folder} ({error.strerror}); --data names its parent") from None
    # Names with folders in them are looked up one by one.
    found = {name for name in names if name in there or ("/" in name and (folder / name).is_file())}
    account = BrokenImages(len(names), share)
    account.add(f"{folder / name}: listed, but there is no such file" for name in names if name not in found)
    return found, account.names


class ImpossibleBoxes:
    """The account of boxes that can't be right."""

    def __init__(self, where: str, share: float) -> None:
        self.where, self.share, self.total = where, share, 0
        self.names: list[str] = []

    def refuses(self, name: str, box: Any, width: int, height: int) -> bool:
        """Whether `box` (left, top, width, height in pixels) of annotation `name` is none, has no area or lies outside.

        Published boxes overstep the border by rounding; two pixels pass.
        """
        self.total += 1
        reason = _wrong(box, width, height)
        if reason:
            self.names.append(f"{self.where}, {name}: box {box} {reason}")
        return bool(reason)

    def check(self) -> None:
        """Raises `UserError` where too many were refused."""
        if len(self.names) > self.share * self.total:
            listed = "; ".join(self.names[:5]) + ("; …" if len(self.names) > 5 else "")
            raise UserError(
                f"{len(self.names)} of {self.total} boxes are impossible, more than the allowed share {self.share:g}: "
                f"{listed}; mend or remove them, or raise data.broken_share"
            )


def _wrong(box: Any, width: int, height: int) -> str:
    numbers = isinstance(box, list | tuple) and len(box) == 4 and all(isinstance(x, int | float) for x in box)
    if not numbers or not all(math.isfinite(x) for x in box):
        return "is not four numbers"
    left, top, w, h = box
    if w <= 0 or h <= 0:
        return "has no area"
    if left < -_MARGIN or top < -_MARGIN or left + w > width + _MARGIN or top + h > height + _MARGIN:
        return f"lies outside the image of {width}×{height} pixels"
    return ""
