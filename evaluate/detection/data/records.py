"""A split with boxes and masks as Detectron2 takes it, and the checks that all readers of such splits share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from core.data.account import Account
from core.errors import UserError

XYWH_ABS = 1
"""Detectron2's number of the box format left, top, width, height."""

MISSING = "images: listed, but no such file"
UNLISTED = "images: in the folder, but not listed"
UNREADABLE = "images: unreadable header"
NO_SIZE = "images: without a size, taken from the image"
NO_AREA = "objects: box without area"
OUTSIDE = "objects: box outside the image"
FEW_POINTS = "objects: no polygon of three points or more"
DROPPED_POLYGON = "objects: a polygon of fewer than three points left out of the mask, as in Detectron2"
CLIPPED = "objects: box over the image's border, clipped in training (as in Detectron2), not in the ground truth"
_ROUNDING = 1e-3


@dataclass(frozen=True)
class DetectionSet:
    """One split. Missing images and impossible objects are excluded and named."""

    name: str
    """Name in plans and results."""
    records: list[dict[str, Any]]
    """Detectron2's dictionaries, one per image; categories count from 0."""
    classes: tuple[str, ...]
    """Names of the categories, in the order of their numbers."""
    category_ids: tuple[int, ...]
    """Ids of the categories in the annotation file."""
    digest: str
    """Digest of annotations and images (core/data/digests.py); of the annotations alone for the built-in scenes."""
    excluded: tuple[str, ...]
    """Excluded images and objects, each with its reason."""
    truth: Any
    """Ground truth of the evaluation: COCO's document without excluded objects (test split only), or VOC's objects by
    image id."""
    account: Account = field(default_factory=Account)
    """Counts by reason of exclusions, conversions and assumptions."""


class ObjectChecks:
    """Checks of boxes and masks: impossible objects are refused and named, clipped boxes are counted."""

    def __init__(self, where: str, share: float) -> None:
        self.where, self.share, self.total = where, share, 0
        self.names: list[str] = []
        self.largest = 0.0
        """Right or bottom end of the boxes."""
        self.skipped: Counter[str] = Counter()
        self.converted: Counter[str] = Counter()

    def refuses_box(self, name: str, box: Any, width: int, height: int) -> bool:
        """True if `box` (left, top, width, height in pixels) of object `name` has no area within the image.

        A box that oversteps the border is kept as it is: Detectron2 clips it after its transforms, and COCO's and VOC's
        evaluations take it as it is. Raises `UserError` for anything but four finite numbers.
        """
        self.total += 1
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            raise UserError(f"{self.where}, {name}: box {box} is not four finite numbers; fix the file")
        left, top, w, h = box
        self.largest = max(self.largest, left + w, top + h, *((2.0,) if max(width, height) < 3 else ()))
        what = f"{self.where}, {name}: box {box}"
        if w <= 0 or h <= 0:
            return self._refused(NO_AREA, f"{what} has no area")
        if left >= width or top >= height or left + w <= 0 or top + h <= 0:
            return self._refused(OUTSIDE, f"{what} lies outside the image of {width}×{height} pixels")
        if min(left, top) < -_ROUNDING or left + w > width + _ROUNDING or top + h > height + _ROUNDING:
            self.converted[CLIPPED] += 1
        return False

    def usable_mask(self, name: str, mask: Any) -> Any:
        """`mask` without polygons of fewer than three points, which have no area; None if none is left.

        Run lengths pass. Raises `UserError` for a polygon that isn't finite numbers.
        """
        if not isinstance(mask, list):
            return mask
        for polygon in mask:
            if not isinstance(polygon, list) or not all(map(is_number, polygon)):
                raise UserError(f"{self.where}, {name}: a polygon of its mask is not finite numbers; fix the file")
        usable = [polygon for polygon in mask if len(polygon) >= 6 and len(polygon) % 2 == 0]
        if not usable:
            reason = f"its polygons have {len(mask[0])} numbers instead of x and y of at least three points"
            self._refused(FEW_POINTS, f"{self.where}, {name}: {reason}")
            return None
        if len(usable) < len(mask):
            self.converted[DROPPED_POLYGON] += 1
        return usable

    def _refused(self, reason: str, message: str) -> bool:
        self.skipped[reason] += 1
        self.names.append(message)
        return True

    def check(self) -> None:
        """Raises `UserError` if too many objects were refused, or if all boxes are shares of the image."""
        if len(self.names) > self.share * self.total:
            listed = "; ".join(self.names[:5]) + ("; …" if len(self.names) > 5 else "")
            raise UserError(
                f"{len(self.names)} of {self.total} boxes or masks are impossible, more than the allowed share "
                f"{self.share:g}: {listed}; fix or remove them, or raise data.broken_share"
            )
        if self.total > len(self.names) and self.largest <= 1:
            raise UserError(
                f"{self.where}: all boxes lie within 0 … 1, so they are shares of the image's sides; multiply them by "
                f"width and height"
            )


def is_number(value: Any) -> bool:
    """True for a finite number of a size that pixels can have."""
    return type(value) in (int, float) and abs(value) < 1e12
