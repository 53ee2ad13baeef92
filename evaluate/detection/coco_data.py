"""A split in COCO's layout, read once and checked: categories, images, boxes, polygons and run lengths."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from core.errors import UserError
from evaluate.detection.records import XYWH_ABS, DetectionSet, ImpossibleBoxes, present

_WHOLE = {"id", "image_id", "category_id", "iscrowd", "height", "width"}
SPLITS = {"train": "train2017", "val": "val2017"}


def open_coco(root: Path, split: str, masks: bool, mask_format: str, share: float, name: str = "") -> DetectionSet:
    """`root`/train2017 or val2017 with annotations/instances_*.json, called `name` or by its place.

    `masks`: every object must have one. Images that are missing and boxes that are impossible are left out of the
    records, not of the truth, whose numbers stay comparable. Raises `UserError` for a file that isn't such a list, for
    anything that refers to nothing, for a mask that doesn't fit, and where more than `share` is left out.
    """
    folder, file = root / SPLITS[split], root / "annotations" / f"instances_{SPLITS[split]}.json"
    document, digest = _read(file)
    categories = {
        int(entry["id"]): str(entry["name"]) for entry in _entries(file, document, "categories", ("id", "name"))
    }
    ids = sorted(categories)
    images = {
        entry["id"]: entry for entry in _entries(file, document, "images", ("id", "file_name", "height", "width"))
    }
    annotations = _entries(file, document, "annotations", ("id", "image_id", "category_id", "iscrowd", "bbox", "area"))
    found, left_out = present(folder, (entry["file_name"] for entry in images.values()), share)
    numbers = {category: number for number, category in enumerate(ids)}
    by_image: dict[Any, list[dict[str, Any]]] = {key: [] for key in images}
    boxes = ImpossibleBoxes(str(file), share)
    for annotation in annotations:
        image = images.get(annotation["image_id"])
        what = f"annotation {annotation['id']}"
        if image is None:
            raise UserError(f"{file}, {what}: there is no image {annotation['image_id']} in the list; mend the file")
        if annotation["category_id"] not in numbers:
            raise UserError(
                f"{file}, {what}: category {annotation['category_id']} is not among its categories "
                f"({', '.join(map(str, ids[:5]))}{', …' if len(ids) > 5 else ''}); mend the file"
            )
        if boxes.refuses(what, annotation["bbox"], image["width"], image["height"]):
            continue
        crowd = annotation["iscrowd"]
        record = {"bbox": annotation["bbox"], "bbox_mode": XYWH_ABS, "iscrowd": crowd}
        record["category_id"] = numbers[annotation["category_id"]]
        if masks:
            record["segmentation"] = _mask(annotation, image, mask_format, crowd, f"{file}, {what}")
        by_image[annotation["image_id"]].append(record)
    boxes.check()
    records = [
        {
            "file_name": str(folder / image["file_name"]),
            "image_id": key,
            "height": image["height"],
            "width": image["width"],
            "annotations": by_image[key],
        }
        for key, image in images.items()
        if image["file_name"] in found
    ]
    name = name or f"coco:{root} ({SPLITS[split]})"
    left = (*left_out, *boxes.names)
    # Nothing is measured on the training split, whose document takes gigabytes.
    truth = document if split == "val" else None
    return DetectionSet(name, records, tuple(categories[i] for i in ids), tuple(ids), digest, left, truth)


def _read(file: Path) -> tuple[dict[str, Any], str]:
    try:
        content = file.read_bytes()
        document = json.loads(content)
    except FileNotFoundError:
        raise UserError(
            f"no annotations {file}; --data coco:ROOT wants ROOT/annotations/instances_train2017.json and "
            f"instances_val2017.json, ROOT/train2017 and ROOT/val2017"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not readable JSON ({error}); fetch it again") from None
    if not isinstance(document, dict):
        raise UserError(f"{file} holds a {type(document).__name__}, not COCO's object with images and annotations")
    return document, hashlib.sha256(content).hexdigest()


def _entries(file: Path, document: dict[str, Any], key: str, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    entries = document.get(key)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{file} has no {key}; a detector needs images with annotations of known categories")
    seen = set()
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not all(name in entry for name in fields):
            raise UserError(f"{file}: entry {number} of {key} lacks one of {', '.join(fields)}; mend the file")
        wrong = [name for name in fields if name in _WHOLE and type(entry[name]) is not int]
        if wrong:
            raise UserError(f"{file}: entry {number} of {key} has no whole number for {wrong[0]}; mend the file")
        if entry["id"] in seen:
            raise UserError(f"{file}: two of its {key} have the id {entry['id']}; mend the file")
        seen.add(entry["id"])
    if key == "annotations" and 0 in seen:
        # pycocotools writes a match down as the annotation's id, and 0 for none.
        raise UserError(f"{file}: an annotation has the id 0, which COCO's evaluation takes for no match; count from 1")
    return entries


def _run_lengths(counts: Any) -> list[int] | None:
    """The runs of a list, or of COCO's compressed text; None for anything else.

    The text holds 5 bits a character (code − 48), lowest first, bit 5 set where more follow, bit 4 of the last as sign;
    from the fourth run on it holds differences to the run before the last.
    """
    if isinstance(counts, str):
        runs: list[int] = []
        value = shift = 0
        for character in counts:
            code = ord(character) - 48
            if not 0 <= code < 64 or shift > 60:
                return None
            value |= (code & 0x1F) << shift
            shift += 5
            if not code & 0x20:
                value -= (code & 0x10) and 1 << shift
                runs.append(value + (runs[-2] if len(runs) > 2 else 0))
                value = shift = 0
        counts = runs if shift == 0 else None
    whole = isinstance(counts, list) and all(type(run) is int and run >= 0 for run in counts)
    return counts if whole and counts else None


def _mask(annotation: dict[str, Any], image: dict[str, Any], mask_format: str, crowd: int, where: str) -> Any:
    """Polygons as they are, run lengths in pycocotools' compressed form."""
    from pycocotools import mask as coco_mask

    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        size = [image["height"], image["width"]]
        counts = segmentation.get("counts")
        if segmentation.get("size") != size:
            raise UserError(
                f"{where}: run lengths of size {segmentation.get('size')} on an image of {size}; mend the file"
            )
        if mask_format == "polygon" and not crowd:
            raise UserError(f"{where} has run lengths for a mask; set data.mask_format=bitmask")
        runs = _run_lengths(counts)
        if runs is None:
            raise UserError(f"{where} has no run lengths that can be read in its counts; mend the file")
        if sum(runs) != size[0] * size[1]:  # pycocotools would read or write past the mask
            raise UserError(f"{where}: run lengths cover {sum(runs)} pixels of {size[0] * size[1]}; mend the file")
        return coco_mask.frPyObjects({"size": size, "counts": runs}, *size)
    polygons = segmentation if isinstance(segmentation, list) else []
    whole = [
        polygon for polygon in polygons if isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
    ]
    if not whole:
        raise UserError(f"{where} has no mask; mend the file, or set detector.masks=false")
    return whole
