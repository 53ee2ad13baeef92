"""Values of COCO's document in the types that COCO's tools expect; what other tools write otherwise is counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from core.errors import UserError

NUMBERS = "values: whole numbers written as text or with a decimal point"
NAMES = "categories: names written as numbers or with blanks around them"
POINTS = "objects: polygons written as points or as one flat list"
TEXT_IDS = "{}: ids that are text, so all are renumbered from 1 in their order"

_WHOLE = {
    "images": ("id", "width", "height"),
    "categories": ("id",),
    "annotations": ("id", "image_id", "category_id", "iscrowd"),
}
_DECIMAL = re.compile(r"\s*\d{1,15}(?:\.\d*)?\s*")
_NUMBER = re.compile(r"\s*(-?\d{1,18})(?:\.0*)?\s*")


def normalise(document: dict[str, Any]) -> Counter[str]:
    """Changes `document` in place: whole numbers become int, text ids numbers, names text. Counts what was changed.

    What can't be understood stays as it is, for `read_entries` to refuse.
    """
    changed: Counter[str] = Counter()
    for key, fields in _WHOLE.items():
        for entry in _entries(document, key):
            for field in fields:
                value = entry.get(field)
                if type(value) is int or value is None:
                    continue
                number = _whole(value)
                if number is not None:
                    entry[field] = number
                    changed[NUMBERS] += type(value) is not bool
    for entry in _entries(document, "annotations"):
        if isinstance(entry.get("area"), str) and _DECIMAL.fullmatch(entry["area"]):
            entry["area"] = float(entry["area"])
            changed[NUMBERS] += 1
        polygons = _polygons(entry.get("segmentation"))
        if polygons is not None:
            entry["segmentation"] = polygons
            changed[POINTS] += 1
    for entry in _entries(document, "categories"):
        name = entry.get("name")
        if type(name) in (int, float) or (isinstance(name, str) and name != name.strip()):
            entry["name"] = str(name).strip()
            changed[NAMES] += 1
    for key, reference in (("images", "image_id"), ("categories", "category_id")):
        changed += _renumber_text_ids(document, key, reference)
    return +changed


def _renumber_text_ids(document: dict[str, Any], key: str, reference: str) -> Counter[str]:
    ids = [entry.get("id") for entry in _entries(document, key)]
    if not any(isinstance(one, str) for one in ids) or not all(isinstance(one, str | int) for one in ids):
        return Counter()
    if len(set(ids)) < len(ids):
        raise UserError(f"two of the {key} have the id {Counter(ids).most_common(1)[0][0]!r}; fix the file")
    new = {one: number for number, one in enumerate(ids, start=1)}
    for entry, one in zip(_entries(document, key), ids, strict=True):
        entry["id"] = new[one]
    for annotation in _entries(document, "annotations"):
        given = annotation.get(reference)
        if isinstance(given, str | int) and given not in new:
            raise UserError(f"an annotation has the {reference} {given!r}, which none of the {key} has; fix the file")
        if isinstance(given, str | int):
            annotation[reference] = new[given]
    return Counter({TEXT_IDS.format(key): len(ids)})


def _polygons(segmentation: Any) -> list[list[Any]] | None:
    """COCO's list of polygons [x1, y1, x2, …] for one flat polygon, one of points [[x, y], …] or several of points.

    None for anything else, COCO's own form included.
    """
    if not isinstance(segmentation, list) or not segmentation:
        return None
    if len(segmentation) >= 6 and not any(isinstance(value, list) for value in segmentation):
        return [segmentation]
    if len(segmentation) >= 3 and all(map(_is_point, segmentation)):
        return [[value for point in segmentation for value in point]]
    if all(isinstance(one, list) and len(one) >= 3 and all(map(_is_point, one)) for one in segmentation):
        return [[value for point in polygon for value in point] for polygon in segmentation]
    return None


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and not any(isinstance(one, list) for one in value)


def _entries(document: dict[str, Any], key: str) -> Iterable[dict[str, Any]]:
    entries = document.get(key)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _whole(value: Any) -> int | None:
    """The whole number that a bool, an integral float or a text of digits stands for; None for anything else."""
    if type(value) is bool:
        return int(value)
    if type(value) is float and value.is_integer() and abs(value) < 1e15:
        return int(value)
    found = _NUMBER.fullmatch(value) if isinstance(value, str) else None
    return int(found[1]) if found else None
