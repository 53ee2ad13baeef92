"""Training batches that a resumed run continues, and test images; both report broken images.

Large-scale jitter, which Detectron2 0.6 lacks for polygons, is defined here, too.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.data.common import DatasetFromList
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from core.data.broken import note_broken
from core.errors import BrokenImage, UserError
from evaluate.common.context import RunContext
from evaluate.detection.data.datasets import register
from evaluate.detection.data.image_headers import read_pixels
from evaluate.detection.data.records import DetectionSet
from evaluate.detection.settings import DetectionDataConfig
from evaluate.probes.ood.corrupted import Cell, corrupted_file


def training_batches(
    cfg: CfgNode, settings: DetectionDataConfig, data: DetectionSet, context: RunContext, done: int, report: Path
) -> Any:
    """Endless iterable of this rank's batches (lists of Detectron2's dictionaries) from step `done` on.

    A broken image is replaced by the next good one and listed in the file `report`. With `large_scale_jitter`, `cfg`
    must ask for masks as bitmaps.
    """
    records = get_detection_dataset_dicts(register(data), filter_empty=True)
    mapper = _mapper(cfg, settings.large_scale_jitter)
    images = _TrainingImages(records, mapper, report, len(data.records), settings.broken_share)
    skipped = done * (cfg.SOLVER.IMS_PER_BATCH // context.processes.world_size)
    return build_detection_train_loader(
        images,
        mapper=None,
        sampler=_ResumableSampler(len(images), context.seed, skipped),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        num_workers=context.workers,
    )


def test_images(cfg: CfgNode, records: list[dict[str, Any]], workers: int, cell: Cell | None) -> Any:
    """This rank's test images: lists of one dictionary, with `broken` (the reason) in place of an undecodable image.

    `cell`: corruption and severity under which they are seen.
    """
    if cell is not None:
        records = [{**record, "corruption": cell} for record in records]
    images = _TestImages(records, _Mapper(cfg, False))
    return DataLoader(
        images, batch_size=1, sampler=InferenceSampler(len(images)), num_workers=workers, collate_fn=_uncollated
    )


def _uncollated(batch: list[Any]) -> list[Any]:
    return batch


def _mapper(cfg: CfgNode, jitter: int | None) -> DatasetMapper:
    if jitter is None:
        return _Mapper(cfg, True)
    return _Mapper(
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


class _Mapper(DatasetMapper):
    """Detectron2's mapper with this project's rule for pixels (core/data/to_rgb.py) in place of its own."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Model input of a record. Raises `BrokenImage` for an undecodable image or one of another size."""
        record = copy.deepcopy(dataset_dict)
        image = read_pixels(record)
        if image.size != (record["width"], record["height"]):
            raise BrokenImage(
                record["file_name"],
                f"has {image.width}×{image.height} pixels, not {record['width']}×{record['height']} as listed",
            )
        if (cell := record.pop("corruption", None)) is not None:
            image = corrupted_file(image, record["file_name"], cell)
        inputs = T.AugInput(np.asarray(image))
        transforms = self.augmentations(inputs)
        record["image"] = torch.as_tensor(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        if self.is_train:
            self._transform_annotations(record, transforms, inputs.image.shape[:2])
        else:
            record.pop("annotations")
        return record


class _TrainingImages(Dataset[Any]):
    """Mapped training records; a broken image gives the next good one."""

    def __init__(
        self, records: list[dict[str, Any]], mapper: DatasetMapper, report: Path, total: int, share: float
    ) -> None:
        # Kept in one piece of memory, so that worker processes share it.
        self.records, self.mapper = DatasetFromList(records, copy=False), mapper
        self.report, self.total, self.share = report, total, share

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:
        for further in range(len(self)):
            try:
                return self.mapper(self.records[(index + further) % len(self)])
            except BrokenImage as error:
                note_broken(self.report, str(error), self.total, self.share)
        raise UserError("no training image can be decoded; download the images again")


class _TestImages(Dataset[Any]):
    """Mapped test records; a broken image gives its id and the reason."""

    def __init__(self, records: list[dict[str, Any]], mapper: DatasetMapper) -> None:
        self.records, self.mapper = DatasetFromList(records, copy=False), mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Any:
        record = self.records[index]
        try:
            return self.mapper(record)
        except BrokenImage as error:
            return {"image_id": record["image_id"], "broken": str(error)}


def large_scale_jitter(side: int) -> list[Any]:
    """Flip, scaling to fit a square of `side` pixels times 0.1 … 2, crop to the square (arXiv 2012.07177, sec. 3)."""
    return [T.RandomFlip(), T.ResizeScale(0.1, 2.0, side, side), _Crop(side)]


class _Crop(T.Augmentation):
    """A window of at most `side`×`side` pixels at a random place."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.crop = T.FixedSizeCrop((side, side), pad=False)

    def get_transform(self, image: NDArray[Any]) -> T.Transform:
        return _WholePolygons(self.crop.get_transform(image).transforms[0])


class _WholePolygons(T.Transform):
    """A crop that moves polygons without cutting them; the part beyond the border is lost when they become bitmaps.

    Detectron2's own crop cuts them first, for which it needs a geometry library.
    """

    def __init__(self, crop: T.CropTransform) -> None:
        super().__init__()
        self.crop = crop

    def apply_image(self, img: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self.crop.apply_image(img))

    def apply_coords(self, coords: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self.crop.apply_coords(coords))
