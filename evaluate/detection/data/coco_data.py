"""A split in COCO's layout, read once and checked: categories, images and objects."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from core.data.account import Account
from core.data.broken import BrokenImages
from core.data.digests import files_digest
from core.errors import UserError
from evaluate.detection.data.coco_document import complete_sizes, read_document, read_entries, renumber
from evaluate.detection.data.coco_layout import find_split
from evaluate.detection.data.coco_masks import area_of, box_of, mask_of
from evaluate.detection.data.coco_values import normalise
from evaluate.detection.data.listed_files import find_files
from evaluate.detection.data.records import (
    MISSING,
    UNLISTED,
    UNREADABLE,
    XYWH_ABS,
    DetectionSet,
    ObjectChecks,
)

NO_CROWD = "objects: without iscrowd, taken as 0"
NO_BOX = "objects: without bbox, taken from the mask"
NO_AREA = {
    "mask": "objects: without area, taken from the mask",
    "box": "objects: without area, taken from the box",
}


def open_coco(root: Path, split: str, masks: bool, mask_format: str, share: float, name: str = "") -> DetectionSet:
    """The split train or val below `root` (`coco_layout.find_split`), called `name` or by its path.

    `masks`: every object must have one. Missing images and impossible objects are excluded from the records and from
    the ground truth. Raises `UserError` for a file that isn't such a list, for a reference to nothing, for a mask that
    doesn't fit, and if more than `share` is excluded.
    """
    place = find_split(root, split)
    folder, file = place.folder, place.file
    document, digest = read_document(file)
    try:
        converted = normalise(document)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    categories, notes = _class_names(read_entries(file, document, "categories", ("id", "name")))
    listed = read_entries(file, document, "images", ("id", "file_name"))
    annotations = read_entries(file, document, "annotations", ("image_id", "category_id"))
    names = [image["file_name"] for image in listed]
    files = find_files(folder, names, share)
    sizes, unreadable = complete_sizes(folder, listed, files.paths)
    converted += files.converted + sizes
    BrokenImages(len(listed), share).add([*files.missing, *unreadable])
    images = {image["id"]: image for image in listed}
    numbers = {category: number for number, category in enumerate(categories)}
    by_image: dict[int, list[dict[str, Any]]] = {key: [] for key in images}
    checks, truth = ObjectChecks(str(file), share), []
    for position, annotation in enumerate(annotations):
        what = f"annotation {annotation.get('id', f'in position {position}')}"
        image = _image_of(annotation, images, f"{file}, {what}")
        if annotation["category_id"] not in numbers:
            shown = ", ".join(map(str, list(categories)[:5])) + (", …" if len(categories) > 5 else "")
            raise UserError(
                f"{file}, {what}: category {annotation['category_id']} is not among its categories ({shown}); fix the "
                f"file"
            )
        if image["width"] is None:
            continue
        if annotation.get("bbox") in (None, []):
            annotation["bbox"] = box_of(annotation, image, f"{file}, {what}")
            converted[NO_BOX] += 1
        if checks.refuses_box(what, annotation["bbox"], image["width"], image["height"]):
            continue
        if annotation.get("iscrowd") is None:
            converted[NO_CROWD] += 1
        annotation["iscrowd"] = int(annotation.get("iscrowd") or 0)
        record = {"bbox": annotation["bbox"], "bbox_mode": XYWH_ABS, "iscrowd": annotation["iscrowd"]}
        record["category_id"] = numbers[annotation["category_id"]]
        if masks:
            mask = checks.usable_mask(what, mask_of(annotation, image, mask_format, f"{file}, {what}"))
            if mask is None:
                continue
            record["segmentation"] = mask
            if isinstance(mask, list):
                annotation["segmentation"] = mask  # pycocotools would take four numbers for a box
        by_image[annotation["image_id"]].append(record)
        if split == "val":
            if annotation.get("area") is None:
                annotation["area"], source = area_of(annotation, image)
                converted[NO_AREA[source]] += 1
            # Masks that aren't measured can't trouble the evaluation.
            truth.append({key: value for key, value in annotation.items() if masks or key != "segmentation"})
    checks.check()
    converted += checks.converted
    compared = None  # nothing is measured on the training split, whose document takes gigabytes
    if split == "val":
        converted += renumber(truth)
        compared = {**document, "annotations": truth}
    records = [
        {
            "file_name": str(folder / files.paths[image["file_name"]]),
            "image_id": key,
            "height": image["height"],
            "width": image["width"],
            "annotations": by_image[key],
        }
        for key, image in images.items()
        if image["file_name"] in files.paths and image["width"] is not None
    ]
    skipped = Counter({MISSING: len(files.missing), UNREADABLE: len(unreadable), UNLISTED: files.unlisted})
    if len(set(names)) < len(names):
        notes += (f"{len(names) - len(set(names))} images are listed more than once, and used as often",)
    if not name:  # the built-in scenes are known by their annotations
        paths = ((os.fsencode(path), folder / path) for path in files.paths.values())
        digest = files_digest(paths, digest.encode())
    return DetectionSet(
        name=name or f"coco:{root} ({place.name})",
        records=records,
        classes=tuple(categories.values()),
        category_ids=tuple(categories),
        digest=digest,
        excluded=(*files.missing, *unreadable, *checks.names),
        truth=compared,
        account=Account(dict(skipped + checks.skipped), dict(converted), (*place.notes, *notes)),
    )


def _class_names(entries: list[dict[str, Any]]) -> tuple[dict[int, str], tuple[str, ...]]:
    """Class name by category id, in the order of the ids, as Detectron2 numbers them; and remarks for the plan."""
    entries = sorted(entries, key=lambda entry: entry["id"])
    names = Counter(entry["name"] for entry in entries)
    found = {e["id"]: e["name"] if names[e["name"]] == 1 else f"{e['name']} (id {e['id']})" for e in entries}
    ids, notes = list(found), []
    if ids not in (list(range(len(ids))), list(range(1, len(ids) + 1))):
        notes.append(f"category ids {ids[0]} … {ids[-1]} with gaps: the {len(ids)} classes are numbered in their order")
    if repeated := [name for name, count in names.items() if count > 1]:
        notes.append(f"categories of the same name: their ids are added ({', '.join(repeated[:5])})")
    return found, tuple(notes)


def _image_of(annotation: dict[str, Any], images: dict[int, dict[str, Any]], where: str) -> dict[str, Any]:
    image = images.get(annotation["image_id"])
    if image is None:
        raise UserError(f"{where}: there is no image {annotation['image_id']} in the list; fix the file")
    return image
