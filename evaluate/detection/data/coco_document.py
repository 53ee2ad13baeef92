"""COCO's annotation file, read and checked; missing values get the defaults of COCO's own tools, which are counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import BrokenImage, UserError
from core.files.atomic_file import file_digest
from evaluate.detection.data.image_headers import read_headers
from evaluate.detection.data.records import NO_SIZE, is_number

RENUMBERED = "objects: ids that are 0, repeated or absent, so all are renumbered from 1"

_WHOLE = {"id", "image_id", "category_id", "height", "width"}
_TEXT = {"file_name", "name"}
_MAX_SIDE = 100_000


def read_document(file: Path) -> tuple[dict[str, Any], str]:
    """The file's object and the sha256 (hex) of its bytes. Raises `UserError` for anything else."""
    try:
        digest = file_digest(file)
        # Read as text alone, which is freed once it is parsed: its bytes don't stay beside the objects. A byte order
        # mark, as Windows' tools write it, is skipped.
        with file.open(encoding="utf-8-sig") as opened:
            document = json.load(opened)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is not readable JSON ({error}); download or write it again") from None
    if not isinstance(document, dict):
        raise UserError(f"{file} holds a {type(document).__name__}, not COCO's object with images and annotations")
    return document, digest


def read_entries(file: Path, document: dict[str, Any], key: str, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """Entries of the list `key`, each with `fields`. Raises `UserError` for a missing or impossible value."""
    entries = document.get(key)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{file} has no {key}; a detector needs images with annotations of known categories")
    unique = "id" in fields
    seen = set()
    for number, entry in enumerate(entries):
        where = f"{file}: entry {number} of {key}"
        if not isinstance(entry, dict):
            raise UserError(f"{where} is not an object with {', '.join(fields)}; fix the file")
        if missing := [name for name in fields if name not in entry]:
            raise UserError(f"{where} has no {' and no '.join(missing)}; fix the file")
        if wrong := [name for name in fields if name in _WHOLE and type(entry[name]) is not int]:
            raise UserError(f"{where} has no whole number for {wrong[0]}; fix the file")
        if wrong := [name for name in fields if name in _TEXT and (type(entry[name]) is not str or not entry[name])]:
            raise UserError(f"{where} has no text for {wrong[0]}; fix the file")
        if impossible := _impossible(entry):
            raise UserError(f"{where} has {impossible}; fix the file")
        if unique and entry["id"] in seen:
            raise UserError(f"{file}: two of its {key} have the id {entry['id']}; fix the file")
        seen.add(entry.get("id") if unique else None)
    return entries


def _impossible(entry: dict[str, Any]) -> str:
    """Description of a value that no image or annotation can have; empty if there is none."""
    for side in ("height", "width"):
        value = entry.get(side) or 1
        if type(value) is not int:
            return f"no whole number for {side}"
        if not 1 <= value <= _MAX_SIDE:
            return f"a {side} of {str(value)[:20]} pixels"
    if entry.get("iscrowd") not in (None, 0, 1):
        return f"an iscrowd of {str(entry['iscrowd'])[:20]}, neither 0 nor 1"
    area = entry.get("area")
    if area is not None and not (is_number(area) and area >= 0):
        return f"no finite area, but {str(area)[:20]!r}"
    return ""


def complete_sizes(
    folder: Path, images: list[dict[str, Any]], paths: Mapping[str, str]
) -> tuple[Counter[str], list[str]]:
    """Gives images without a size that of their file, upright; counts them. A message for each unreadable header.

    Images that still have no size are those messages' and missing ones.
    """
    sizeless = [image for image in images if not (image.get("width") and image.get("height"))]
    names = (image["file_name"] for image in sizeless)
    headers = read_headers(folder, (paths[name] for name in names if name in paths))
    completed: Counter[str] = Counter()
    unreadable = []
    for image in sizeless:
        header = headers.get(paths.get(image["file_name"], ""))
        if isinstance(header, BrokenImage):
            unreadable.append(str(header))
        if header is None or isinstance(header, BrokenImage):
            image["width"] = image["height"] = None
            continue
        image["width"], image["height"] = header.upright_size
        completed[NO_SIZE] += 1
    return completed, unreadable


def renumber(truth: list[dict[str, Any]]) -> Counter[str]:
    """Numbers ground-truth annotations from 1, in place, if their ids are of no use to the evaluation; counts them.

    COCO's evaluation stores the id of a match, and 0 for no match; of two objects with one id it loses one.
    """
    ids = [annotation.get("id") for annotation in truth]
    if all(type(one) is int and one != 0 for one in ids) and len(set(ids)) == len(ids):
        return Counter()
    for number, annotation in enumerate(truth, start=1):
        annotation["id"] = number
    return Counter({RENUMBERED: len(truth)})
