"""A split in COCO's layout, read once and checked: categories, images and objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files.atomic_file import file_digest
from evaluate.detection.data.coco_masks import mask_of
from evaluate.detection.data.records import XYWH_ABS, DetectionSet, ImpossibleObjects, existing_images, is_number

_WHOLE = {"id", "image_id", "category_id", "iscrowd", "height", "width"}
_TEXT = {"file_name", "name"}
_LARGEST_SIDE = 100_000
SPLITS = {"train": "train2017", "val": "val2017"}


def open_coco(root: Path, split: str, masks: bool, mask_format: str, share: float, name: str = "") -> DetectionSet:
    """`root`/train2017 or val2017 with annotations/instances_*.json, called `name` or by its place.

    `masks`: every object must have one. Images that are missing, boxes that are impossible and masks without a shape
    are left out of the records and of the truth. Raises `UserError` for a file that isn't such a list, for anything
    that refers to nothing, for a mask that doesn't fit, and where more than `share` is left out.
    """
    folder, file = root / SPLITS[split], root / "annotations" / f"instances_{SPLITS[split]}.json"
    document, digest = _read(file)
    categories = {entry["id"]: entry["name"] for entry in _entries(file, document, "categories", ("id", "name"))}
    ids = sorted(categories)
    images = {
        entry["id"]: entry for entry in _entries(file, document, "images", ("id", "file_name", "height", "width"))
    }
    annotations = _entries(file, document, "annotations", ("id", "image_id", "category_id", "iscrowd", "bbox", "area"))
    found, left_out = existing_images(folder, (entry["file_name"] for entry in images.values()), share)
    numbers = {category: number for number, category in enumerate(ids)}
    by_image: dict[Any, list[dict[str, Any]]] = {key: [] for key in images}
    account, truth = ImpossibleObjects(str(file), share), []
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
        if account.refuses_box(what, annotation["bbox"], image["width"], image["height"]):
            continue
        crowd = annotation["iscrowd"]
        record = {"bbox": annotation["bbox"], "bbox_mode": XYWH_ABS, "iscrowd": crowd}
        record["category_id"] = numbers[annotation["category_id"]]
        if masks:
            record["segmentation"] = mask_of(annotation, image, mask_format, f"{file}, {what}")
            if account.refuses_mask(what, record["segmentation"]):
                continue
        by_image[annotation["image_id"]].append(record)
        if split == "val":
            # What isn't measured isn't left for the evaluation to stumble over.
            truth.append({key: value for key, value in annotation.items() if masks or key != "segmentation"})
    account.check()
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
    left = (*left_out, *account.names)
    # Nothing is measured on the training split, whose document takes gigabytes.
    compared = {**document, "annotations": truth} if split == "val" else None
    return DetectionSet(name, records, tuple(categories[i] for i in ids), tuple(ids), digest, left, compared)


def _read(file: Path) -> tuple[dict[str, Any], str]:
    try:
        digest = file_digest(file)
        # As text alone, which is let go once it is parsed: its bytes don't stand beside the objects.
        with file.open(encoding="utf-8") as opened:
            document = json.load(opened)
    except FileNotFoundError:
        raise UserError(
            f"no annotations {file}; --data coco:ROOT wants ROOT/annotations/instances_train2017.json and "
            f"instances_val2017.json, ROOT/train2017 and ROOT/val2017"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is not readable JSON ({error}); fetch it again") from None
    if not isinstance(document, dict):
        raise UserError(f"{file} holds a {type(document).__name__}, not COCO's object with images and annotations")
    return document, digest


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
        wrong = [name for name in fields if name in _TEXT and (type(entry[name]) is not str or not entry[name])]
        if wrong:
            raise UserError(f"{file}: entry {number} of {key} has no text for {wrong[0]}; mend the file")
        if impossible := _impossible(entry):
            raise UserError(f"{file}: entry {number} of {key} has {impossible}; mend the file")
        if entry["id"] in seen:
            raise UserError(f"{file}: two of its {key} have the id {entry['id']}; mend the file")
        seen.add(entry["id"])
    if key == "annotations" and 0 in seen:
        # pycocotools writes a match down as the annotation's id, and 0 for none.
        raise UserError(f"{file}: an annotation has the id 0, which COCO's evaluation takes for no match; count from 1")
    return entries


def _impossible(entry: dict[str, Any]) -> str:
    """The value of an image or annotation that can't be; empty where all can. Its whole numbers are whole."""
    for side in ("height", "width"):
        if not 1 <= entry.get(side, 1) <= _LARGEST_SIDE:
            return f"a {side} of {str(entry[side])[:20]} pixels"
    if entry.get("iscrowd", 0) not in (0, 1):
        return f"an iscrowd of {entry['iscrowd']}, neither 0 nor 1"
    if "area" in entry and not (is_number(entry["area"]) and entry["area"] >= 0):
        return f"no finite area, but {entry['area']!r}"
    return ""
