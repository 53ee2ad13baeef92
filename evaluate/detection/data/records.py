"""A split with boxes and masks as Detectron2 wants it, and what every loader of such a split checks."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
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
    excluded: tuple[str, ...]
    """Which images and boxes, each with its reason."""
    truth: Any
    """What the evaluation compares with: COCO's document without the impossible (of the test split), or VOC's objects
    by image id."""


def existing_images(folder: Path, names: Iterable[str], share: float) -> tuple[set[str], list[str]]:
    """Names of the images that are files in `folder`, and a message for each that isn't.

    Raises `UserError` where there is no such folder, for a name that leads out of it, and where more than `share` of
    the images are missing.
    """
    names = list(names)
    for name in names:
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise UserError(f"the image {name!r} lies outside of its folder {folder}; mend the list")
    try:
        there = {entry.name for entry in os.scandir(folder)}
    except OSError as error:
        raise UserError(f"can't read the image folder {folder} ({error.strerror}); --data names its parent") from None
    # Names with folders in them are looked up one by one.
    found = {name for name in names if name in there or ("/" in name and (folder / name).is_file())}
    account = BrokenImages(len(names), share)
    account.add(f"{folder / name}: listed, but there is no such file" for name in names if name not in found)
    return found, account.names


class ImpossibleObjects:
    """The account of boxes and masks that can't be right."""

    def __init__(self, where: str, share: float) -> None:
        self.where, self.share, self.total = where, share, 0
        self.names: list[str] = []

    def refuses_box(self, name: str, box: Any, width: int, height: int) -> bool:
        """Whether `box` (left, top, width, height in pixels) of object `name` has no area or lies outside.

        Published boxes overstep the border by rounding; two pixels pass. Raises `UserError` for what is no box at all.
        """
        self.total += 1
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            raise UserError(f"{self.where}, {name}: box {box} is not four finite numbers; mend the file")
        reason = _wrong(box, width, height)
        return self._noted(f"{self.where}, {name}: box {box} {reason}" if reason else "")

    def refuses_mask(self, name: str, mask: Any) -> bool:
        """Whether a polygon of `mask` is less than three points; run lengths pass.

        Raises `UserError` for a polygon that isn't finite numbers.
        """
        polygons = mask if isinstance(mask, list) else []
        for polygon in polygons:
            if not isinstance(polygon, list) or not all(map(is_number, polygon)):
                raise UserError(f"{self.where}, {name}: a polygon of its mask is not finite numbers; mend the file")
        few = next((len(polygon) for polygon in polygons if len(polygon) < 6 or len(polygon) % 2), None)
        reason = f"a polygon of its mask has {few} numbers, where x and y of three points or more belong"
        return self._noted(f"{self.where}, {name}: {reason}" if few is not None else "")

    def _noted(self, message: str) -> bool:
        if message:
            self.names.append(message)
        return bool(message)

    def check(self) -> None:
        """Raises `UserError` where too many were refused."""
        if len(self.names) > self.share * self.total:
            listed = "; ".join(self.names[:5]) + ("; …" if len(self.names) > 5 else "")
            raise UserError(
                f"{len(self.names)} of {self.total} boxes or masks are impossible, more than the allowed share "
                f"{self.share:g}: {listed}; mend or remove them, or raise data.broken_share"
            )


def is_number(value: Any) -> bool:
    """Whether it is a finite number of a size that pixels can have."""
    return type(value) in (int, float) and abs(value) < 1e12


def _wrong(box: list[float], width: int, height: int) -> str:
    left, top, w, h = box
    if w <= 0 or h <= 0:
        return "has no area"
    if left < -_MARGIN or top < -_MARGIN or left + w > width + _MARGIN or top + h > height + _MARGIN:
        return f"lies outside the image of {width}×{height} pixels"
    return ""
