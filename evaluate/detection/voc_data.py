"""Pascal VOC for detection: trainval of 2007 and 2012 to train, test of 2007 to measure, as the 24k protocol has it."""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from core.errors import UserError
from evaluate.detection.records import XYWH_ABS, DetectionSet, ImpossibleBoxes, present

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_PARTS = {"train": (("VOC2007", "trainval"), ("VOC2012", "trainval")), "val": (("VOC2007", "test"),)}


def open_voc(root: Path, split: str, share: float) -> DetectionSet:
    """The split's parts below `root` (or `root`/VOCdevkit), each with Annotations, ImageSets/Main and JPEGImages.

    Raises `UserError` for a missing or unreadable part, and where more than `share` is left out.
    """
    if not (root / "VOC2007").is_dir() and (root / "VOCdevkit").is_dir():
        root = root / "VOCdevkit"
    records, left_out, digest = [], [], hashlib.sha256()
    boxes = ImpossibleBoxes(str(root), share)
    for year, part in _PARTS[split]:
        listed = root / year / "ImageSets" / "Main" / f"{part}.txt"
        try:
            names = listed.read_text(encoding="utf-8").split()
        except OSError as error:
            raise UserError(
                f"can't read {listed} ({error.strerror}); --data voc:ROOT wants ROOT/VOC2007 (trainval and test) and "
                f"ROOT/VOC2012, each with Annotations, ImageSets/Main and JPEGImages"
            ) from None
        if not names:
            raise UserError(f"{listed} lists no images; fetch it again")
        found, missing = present(root / year / "JPEGImages", (f"{name}.jpg" for name in names), share)
        left_out += missing
        for name in names:
            record = _record(root / year / "Annotations" / f"{name}.xml", boxes, digest)
            record |= {"file_name": str(root / year / "JPEGImages" / f"{name}.jpg"), "image_id": name}
            if f"{name}.jpg" in found:
                records.append(record)
    boxes.check()
    name = f"voc:{root} ({' + '.join(' '.join(part) for part in _PARTS[split])})"
    left = (*left_out, *boxes.names)
    truth = root / _PARTS[split][0][0]
    return DetectionSet(name, records, CLASSES, tuple(range(len(CLASSES))), digest.hexdigest(), left, truth)


def _record(file: Path, boxes: ImpossibleBoxes, digest: Any) -> dict[str, Any]:
    annotations = []
    try:
        content = file.read_bytes()
        digest.update(content)
        tree = ET.fromstring(content)
        width, height = (int(tree.findtext(f"size/{side}", "")) for side in ("width", "height"))
        for number, thing in enumerate(tree.iter("object")):
            name = thing.findtext("name", "")
            if name not in CLASSES:
                raise UserError(
                    f"{file}: object {number} is a {name!r}, which is none of VOC's 20 classes; mend the file"
                )
            left, top, right, bottom = (
                float(thing.findtext(f"bndbox/{s}", "")) for s in ("xmin", "ymin", "xmax", "ymax")
            )
            # VOC counts pixels from 1 and includes the last.
            box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
            if not boxes.refuses(f"{file.name}, object {number}", box, width, height):
                annotations.append(
                    {"bbox": box, "bbox_mode": XYWH_ABS, "category_id": CLASSES.index(name), "iscrowd": 0}
                )
    except UserError:
        raise
    except (OSError, ET.ParseError, ValueError) as error:
        raise UserError(f"{file} is not a readable annotation of VOC ({error}); fetch it again") from None
    return {"height": height, "width": width, "annotations": annotations}
