"""Both splits of a protocol: opened, compared, checked against their images, registered with Detectron2."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from core.config import config_digest
from core.data.account import Account
from core.data.broken import BrokenImages
from core.data.scenes.coco_ade20k_folders import write_coco
from core.errors import BrokenImage, UserError
from core.files.cache_folder import cache_folder
from core.files.user_path import user_path
from evaluate.detection.data.coco_data import open_coco
from evaluate.detection.data.image_headers import ORIENTED, UNORIENTED, read_headers
from evaluate.detection.data.records import UNREADABLE, DetectionSet
from evaluate.detection.data.voc_data import open_voc
from evaluate.detection.settings import DetectionConfig

OTHER_SIZE = "images: not of the size in the annotations"


def open_splits(config: DetectionConfig) -> tuple[DetectionSet, DetectionSet]:
    """Training and test split; scenes are rendered into the cache on first use.

    Raises `UserError` if either is unusable or their categories differ.
    """
    data = config.data
    place, share, masks = data.source.partition(":")[2], data.broken_share, config.detector.masks
    if data.kind == "voc":
        train, val = (open_voc(user_path(place), split, share) for split in ("train", "val"))
    else:
        root = user_path(place) if data.kind == "coco" else _scenes(config)
        train, val = (
            open_coco(root, split, masks, data.mask_format, share, name="" if place else f"scenes:{part}")
            for split, part in (("train", "train"), ("val", "test"))
        )
    val = match_classes(train, val)
    train, val = check_images(train, share), check_images(val, share)
    return note_empty(train), note_classes(val)


def match_classes(train: DetectionSet, val: DetectionSet) -> DetectionSet:
    """`val` with the class numbers of `train`: by id and name, or else by name alone.

    A class of one split alone is accepted where it makes no difference: in `train`, and in `val` without an object.
    Raises `UserError` for an object in `val` of a class that `train` doesn't know.
    """
    if (train.category_ids, train.classes) == (val.category_ids, val.classes):
        return val
    number_of = {name: number for number, name in enumerate(train.classes)}
    used = {one["category_id"] for record in val.records for one in record["annotations"]}
    unknown = [number for number, name in enumerate(val.classes) if name not in number_of]
    if wrong := sorted(used.intersection(unknown)):
        number = wrong[0]
        raise UserError(
            f"{train.name} and {val.name} have different categories: {val.category_ids[number]} "
            f"{val.classes[number]!r} has objects in the latter alone; use annotation files that belong together"
        )
    new = {number: number_of[name] for number, name in enumerate(val.classes) if name in number_of}
    ids = {val.category_ids[number]: train.category_ids[other] for number, other in new.items()}
    records = [
        record | {"annotations": [one | {"category_id": new[one["category_id"]]} for one in record["annotations"]]}
        for record in val.records
    ]
    truth = {
        **val.truth,
        "categories": [{"id": i, "name": n} for i, n in zip(train.category_ids, train.classes, strict=True)],
        # Objects of excluded images don't count, whatever their class.
        "annotations": [
            one | {"category_id": ids[one["category_id"]]}
            for one in val.truth["annotations"]
            if one["category_id"] in ids
        ],
    }
    note = f"categories of the two splits differ: matched by name ({len(new)} of {len(train.classes)} are in both)"
    account = val.account + Account(notes=(note,))
    classes, category_ids = train.classes, train.category_ids
    return dataclasses.replace(
        val, records=records, truth=truth, classes=classes, category_ids=category_ids, account=account
    )


def check_images(split: DetectionSet, share: float) -> DetectionSet:
    """`split` without images whose header is unreadable or shows another size than the annotations.

    Reads headers alone. Raises `UserError` for more than `share` of such images.
    """
    by_folder: dict[Path, list[str]] = {}
    for record in split.records:
        path = Path(record["file_name"])
        by_folder.setdefault(path.parent, []).append(path.name)
    headers = {folder: read_headers(folder, names) for folder, names in by_folder.items()}
    records, excluded = [], []
    skipped: Counter[str] = Counter()
    converted: Counter[str] = Counter()
    for record in split.records:
        path, size = Path(record["file_name"]), (record["width"], record["height"])
        header = headers[path.parent][path.name]
        if isinstance(header, BrokenImage):
            excluded.append(str(header))
            skipped[UNREADABLE] += 1
        elif size == header.upright_size:
            converted.update(header.conversions + ((ORIENTED,) if header.orientation != 1 else ()))
            records.append(record | {"orientation": header.orientation} if header.orientation != 1 else record)
        elif size == (header.width, header.height):
            converted.update((*header.conversions, UNORIENTED))
            records.append(record)
        else:
            width, height = header.upright_size
            excluded.append(f"{path}: has {width}×{height} pixels, not {size[0]}×{size[1]} as in the annotations")
            skipped[OTHER_SIZE] += 1
    BrokenImages(len(split.records), share).add(excluded)
    account = split.account + Account(dict(skipped), dict(converted))
    return dataclasses.replace(split, records=records, excluded=(*split.excluded, *excluded), account=account)


def note_empty(train: DetectionSet) -> DetectionSet:
    """`train` with a note on images without objects. Raises `UserError` if there is nothing to train on."""
    empty = sum(all(one["iscrowd"] for one in record["annotations"]) for record in train.records)
    if empty == len(train.records):
        raise UserError(f"{train.name} has no image with an object to train on; fix its annotations")
    if not empty:
        return train
    note = f"training without {empty:,} images that show no object, as in Detectron2"
    return dataclasses.replace(train, account=train.account + Account(notes=(note,)))


def note_classes(val: DetectionSet) -> DetectionSet:
    """`val` with a note on the classes of which no object counts: crowds and difficult objects don't."""
    voc = isinstance(val.truth, dict) and "annotations" not in val.truth
    names = _counting_in_voc(val) if voc else _counting(val)
    absent = [name for name in val.classes if name not in names]
    if not absent:
        return val
    if len(absent) == len(val.classes):
        note = "no object counts, so there is no average precision"
    else:
        effect = "count as average precision 0, as in Detectron2" if voc else "have no average precision"
        shown = ", ".join(absent[:10]) + (", …" if len(absent) > 10 else "")
        note = f"{len(absent)} of {len(val.classes)} classes have no object that counts and {effect}: {shown}"
    return dataclasses.replace(val, account=val.account + Account(notes=(note,)))


def _counting(val: DetectionSet) -> set[str]:
    objects = (one for record in val.records for one in record["annotations"] if not one["iscrowd"])
    return {val.classes[one["category_id"]] for one in objects}


def _counting_in_voc(val: DetectionSet) -> set[str]:
    objects: Any = (one for record in val.records for one in val.truth[record["image_id"]])
    return {one.name for one in objects if not one.difficult}


def _scenes(config: DetectionConfig) -> Path:
    return write_coco(cache_folder() / f"scenes-coco-{config_digest(config.data.scenes)[:12]}", config.data.scenes)


def register(split: DetectionSet) -> str:
    """Registers the split in Detectron2's catalogues; returns its name there."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    name = f"ssl-transfer {split.name} {split.digest[:12]}"
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: split.records)
    MetadataCatalog.get(name).set(thing_classes=list(split.classes))
    return name
