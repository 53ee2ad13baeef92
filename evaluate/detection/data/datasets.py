"""The two splits that a protocol names, opened, compared and registered with Detectron2."""

from __future__ import annotations

from pathlib import Path

from core.config import config_digest
from core.data.scenes.coco_ade20k_folders import write_coco
from core.errors import UserError
from core.files.cache_folder import cache_folder
from evaluate.detection.data.coco_data import open_coco
from evaluate.detection.data.records import DetectionSet
from evaluate.detection.data.voc_data import open_voc
from evaluate.detection.settings import DetectionConfig


def open_splits(config: DetectionConfig) -> tuple[DetectionSet, DetectionSet]:
    """Training and test split; scenes are rendered into the cache on first use.

    Raises `UserError` where either is unusable, or their categories differ.
    """
    data = config.data
    kind, _, place = data.source.partition(":")
    share, masks = data.broken_share, config.detector.masks
    if kind == "voc":
        train, val = (open_voc(Path(place).expanduser(), split, share) for split in ("train", "val"))
    else:
        root = Path(place).expanduser() if kind == "coco" else _scenes(config)
        train, val = (
            open_coco(root, split, masks, data.mask_format, share, name="" if kind == "coco" else f"scenes:{part}")
            for split, part in (("train", "train"), ("val", "test"))
        )
    if (train.category_ids, train.classes) != (val.category_ids, val.classes):
        pairs = [set(zip(split.category_ids, split.classes, strict=True)) for split in (train, val)]
        different = sorted(pairs[0] ^ pairs[1])
        number, name = different[0]
        raise UserError(
            f"{train.name} and {val.name} have different categories, e.g. {number} {name!r} is in one of them only; "
            f"take annotation files that belong together"
        )
    if not any(not one["iscrowd"] for record in train.records for one in record["annotations"]):
        raise UserError(f"{train.name} has no image with an object that could be trained on; mend its annotations")
    return train, val


def _scenes(config: DetectionConfig) -> Path:
    return write_coco(cache_folder() / f"scenes-coco-{config_digest(config.data.scenes)[:12]}", config.data.scenes)


def register(split: DetectionSet) -> str:
    """Makes the split known to Detectron2's catalogues; gives the name it has there."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    name = f"ssl-transfer {split.name} {split.digest[:12]}"
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: split.records)
    MetadataCatalog.get(name).set(thing_classes=list(split.classes))
    return name
