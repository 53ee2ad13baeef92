"""Pascal VOC for detection: trainval of 2007 and 2012 to train, test of 2007 to measure, as the 24k protocol has it."""

from __future__ import annotations

import hashlib
import math
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from evaluate.detection.data.records import XYWH_ABS, DetectionSet, ImpossibleObjects, existing_images

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_LARGEST_FILE = 2**20
_LARGEST_SIDE = 100_000
_PARTS = {"train": (("VOC2007", "trainval"), ("VOC2012", "trainval")), "val": (("VOC2007", "test"),)}


@dataclass(frozen=True)
class VocObject:
    """One object of a test image, as VOC's evaluation knows it."""

    name: str
    """Its class."""
    difficult: bool
    """Neither a hit nor a miss."""
    corners: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels, counted from 1 and included."""


def open_voc(root: Path, split: str, share: float) -> DetectionSet:
    """The split's parts below `root` (or `root`/VOCdevkit), each with Annotations, ImageSets/Main and JPEGImages.

    Its `truth` is a list of `VocObject` by image id. Raises `UserError` for a missing or unreadable part, and where
    more than `share` is left out.
    """
    if not (root / "VOC2007").is_dir() and (root / "VOCdevkit").is_dir():
        root = root / "VOCdevkit"
    records, left_out, digest = [], [], hashlib.sha256()
    account = ImpossibleObjects(str(root), share)
    truth: dict[str, list[VocObject]] = {}
    for year, part in _PARTS[split]:
        names = _listed(root / year / "ImageSets" / "Main" / f"{part}.txt")
        found, missing = existing_images(root / year / "JPEGImages", (f"{name}.jpg" for name in names), share)
        left_out += missing
        for name in names:
            record, truth[name] = _read(root / year / "Annotations" / f"{name}.xml", account, digest)
            record |= {"file_name": str(root / year / "JPEGImages" / f"{name}.jpg"), "image_id": name}
            if f"{name}.jpg" in found:
                records.append(record)
    account.check()
    name = f"voc:{root} ({' + '.join(' '.join(part) for part in _PARTS[split])})"
    left = (*left_out, *account.names)
    return DetectionSet(name, records, CLASSES, tuple(range(len(CLASSES))), digest.hexdigest(), left, truth)


def _listed(file: Path) -> list[str]:
    try:
        names = file.read_text(encoding="utf-8").split()
    except OSError as error:
        raise UserError(
            f"can't read {file} ({error.strerror}); --data voc:ROOT wants ROOT/VOC2007 (trainval and test) and "
            f"ROOT/VOC2012, each with Annotations, ImageSets/Main and JPEGImages"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is no list of image names (it is not UTF-8 text); fetch it again") from None
    if not names:
        raise UserError(f"{file} lists no images; fetch it again")
    if odd := next((name for name in names if Path(name).name != name), ""):
        raise UserError(f"{file} lists {odd!r}, which is no name of an image; fetch it again")
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise UserError(f"{file} lists {twice} more than once; fetch it again")
    return names


def _read(file: Path, account: ImpossibleObjects, digest: Any) -> tuple[dict[str, Any], list[VocObject]]:
    """Detectron2's record without the image, and the objects.

    As VOC's own reader does: what isn't marked difficult is not, and coordinates may have decimals. The truth has them
    rounded, because Detectron2's evaluation takes whole pixels.
    """
    annotations, objects = [], []
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise UserError(f"{file} is longer than {_LARGEST_FILE:,} bytes, which no annotation is; fetch it again")
        digest.update(content)
        tree = ET.fromstring(content)
        width, height = (int(tree.findtext(f"size/{side}", "")) for side in ("width", "height"))
        if not (0 < width <= _LARGEST_SIDE and 0 < height <= _LARGEST_SIDE):
            raise ValueError(f"its image is said to have {width}×{height} pixels")
        for number, thing in enumerate(tree.iter("object")):
            name = thing.findtext("name", "")
            if name not in CLASSES:
                raise UserError(
                    f"{file}: object {number} is a {name!r}, which is none of VOC's 20 classes; mend the file"
                )
            left, top, right, bottom = corners = tuple(
                float(thing.findtext(f"bndbox/{s}", "")) for s in ("xmin", "ymin", "xmax", "ymax")
            )
            # VOC counts pixels from 1 and includes the last.
            box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
            if account.refuses_box(f"{file.name}, object {number}", box, width, height):
                continue
            annotations.append({"bbox": box, "bbox_mode": XYWH_ABS, "category_id": CLASSES.index(name), "iscrowd": 0})
            first, second, third, fourth = (math.floor(corner + 0.5) for corner in corners)
            difficult = thing.findtext("difficult", "0").strip() == "1"
            objects.append(VocObject(name, difficult, (first, second, third, fourth)))
    except UserError:
        raise
    except (OSError, ET.ParseError, ValueError, LookupError, OverflowError, RecursionError) as error:
        raise UserError(f"{file} is not a readable annotation of VOC ({error}); fetch it again") from None
    return {"height": height, "width": width, "annotations": annotations}, objects
