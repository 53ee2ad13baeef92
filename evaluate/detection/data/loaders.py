"""Batches for training that go on where a killed run stopped, and test images, both with an account of broken ones."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.data.common import DatasetFromList
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from torch.utils.data import DataLoader, Dataset, Sampler

from core.data.decode import decode_rgb
from core.errors import BrokenImage, UserError
from evaluate.detection.data.jitter import large_scale_jitter


def training_batches(
    cfg: CfgNode, name: str, jitter: int | None, seed: int, done: int, world: int, workers: int, report: Path
) -> Any:
    """An endless iterable of this rank's batches (lists of Detectron2's dictionaries) from step `done` on.

    `jitter`: side of the square of large-scale jitter, under which masks must be bitmaps. Broken images are replaced by
    the next good one and named in the file `report`.
    """
    images = _TrainingImages(get_detection_dataset_dicts(name, filter_empty=True), _mapper(cfg, jitter), report)
    sampler = _ResumableSampler(len(images), seed, done * (cfg.SOLVER.IMS_PER_BATCH // world))
    return build_detection_train_loader(
        images,
        mapper=None,
        sampler=sampler,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=workers,
    )


def test_images(cfg: CfgNode, records: list[dict[str, Any]], workers: int) -> Any:
    """This rank's test images one by one: lists of one dictionary, which has `broken` instead of an image if it is."""
    images = _TestImages(records, DatasetMapper(cfg, False))
    return DataLoader(
        images, batch_size=1, sampler=InferenceSampler(len(images)), num_workers=workers, collate_fn=_as_it_is
    )


def _as_it_is(batch: list[Any]) -> list[Any]:
    return batch


def _mapper(cfg: CfgNode, jitter: int | None) -> DatasetMapper:
    if jitter is None:
        return DatasetMapper(cfg, True)
    return DatasetMapper(
        True,
        augmentations=large_scale_jitter(jitter),
        image_format=cfg.INPUT.FORMAT,
        use_instance_mask=cfg.MODEL.MASK_ON,
        instance_mask_format=cfg.INPUT.MASK_FORMAT,
        recompute_boxes=cfg.MODEL.MASK_ON,
    )


class _ResumableSampler(Sampler[int]):
    """Detectron2's endless shuffled order, without its first `skipped` indices of this rank."""

    def __init__(self, size: int, seed: int, skipped: int) -> None:
        self.order, self.skipped = TrainingSampler(size, seed=seed), skipped

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(iter(self.order), self.skipped, None)


def _mapped(mapper: DatasetMapper, record: dict[str, Any]) -> Any:
    """What the mapper makes of a record; `BrokenImage` where the image is at fault."""
    try:
        return mapper(record)
    except SizeMismatchError:
        raise BrokenImage(
            record["file_name"], f"is not of {record['width']}×{record['height']} pixels as listed"
        ) from None
    except Exception:  # whatever Pillow's plugins raise: the image is at fault if decoding it alone fails too
        decode_rgb(Path(record["file_name"]), record["file_name"])
        raise


class _TrainingImages(Dataset[Any]):
    def __init__(self, records: list[dict[str, Any]], mapper: DatasetMapper, report: Path) -> None:
        # Kept in one piece of memory, so that worker processes share it.
        self.records, self.mapper, self.report = DatasetFromList(records, copy=False), mapper, report

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:
        for further in range(len(self)):
            try:
                return _mapped(self.mapper, self.records[(index + further) % len(self)])
            except BrokenImage as error:
                # Several worker processes append; one short write is never torn.
                with self.report.open("a", encoding="utf-8") as file:
                    file.write(f"{error}\n")
                    os.fsync(file.fileno())
        raise UserError("not one training image can be decoded; fetch them again")


class _TestImages(Dataset[Any]):
    def __init__(self, records: list[dict[str, Any]], mapper: DatasetMapper) -> None:
        self.records, self.mapper = DatasetFromList(records, copy=False), mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:
        record = self.records[index]
        try:
            return _mapped(self.mapper, record)
        except BrokenImage as error:
            return {"image_id": record["image_id"], "broken": str(error)}
