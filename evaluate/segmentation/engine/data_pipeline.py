"""Data set and input steps registered in MMSegmentation: reading with checks, and scaling by a random factor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from mmcv.transforms import BaseTransform, Resize
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS, TRANSFORMS

from core.data.broken import note_broken
from core.data.decode import decode_rgb
from core.errors import BrokenImage, UserError
from evaluate.probes.ood.corrupted import corrupted_file
from evaluate.segmentation.data.labels import read_label
from evaluate.segmentation.data.layouts import Split, list_split
from evaluate.segmentation.protocol import SegmentDataConfig


@DATASETS.register_module()
class LayoutDataset(BaseSegDataset):
    """Image and label of every sample of a split, in the order of `list_split`."""

    def __init__(
        self,
        layout: str,
        split: Split,
        report: str,
        broken_share: float,
        skipped: Sequence[int] = (),
        **options: Any,
    ) -> None:
        """Lists the split, without the positions `skipped`.

        `report`: file to which names of broken training images are appended; `options`: of the engine's data set.
        """
        self.layout, self.split, self.skipped = layout, split, frozenset(skipped)
        self.report, self.broken_share = Path(report), broken_share
        super().__init__(**options)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Input of the pipeline, one dictionary per sample."""
        pairs = list_split(Path(self.data_root), self.layout, self.split).pairs
        self.listed = len(pairs)
        common = {"label_map": self.label_map, "reduce_zero_label": self.reduce_zero_label}
        return [
            {"img_path": str(image), "seg_map_path": str(label), **common, "seg_fields": []}
            for position, (image, label) in enumerate(pairs)
            if position not in self.skipped
        ]

    def prepare_data(self, idx: int) -> Any:
        """A sample after the pipeline; None, for which the engine draws another, if a training image is broken."""
        try:
            return super().prepare_data(idx)
        except BrokenImage as error:
            if self.test_mode:
                raise UserError(f"{error}; it could be read when the run started, so check the disk") from None
            note_broken(self.report, str(error), self.listed, self.broken_share)
            return None


def test_set(settings: dict[str, Any], skipped: Sequence[int]) -> LayoutDataset:
    """Test images of the run with these settings, without the positions `skipped`."""
    found: LayoutDataset = DATASETS.build(settings["test_dataloader"]["dataset"] | {"skipped": skipped})
    return found


def predicted(model: Any, item: dict[str, Any]) -> Any:
    """The sample of a test image with the model's `pred_sem_seg` beside its `gt_sem_seg`."""
    with torch.inference_mode():
        return model.test_step({"inputs": [item["inputs"]], "data_samples": [item["data_samples"]]})[0]


@TRANSFORMS.register_module()
class ReadImage(BaseTransform):
    """Decodes with Pillow, which detects truncated files, and ignores orientation tags, as labels have none.

    Raises `BrokenImage`.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Adds `img` [H, W, 3] uint8 in the engine's order, BGR, and its size."""
        image = np.asarray(decode_rgb(Path(results["img_path"]), results["img_path"]))
        results["img"] = np.ascontiguousarray(image[..., ::-1])
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results


@TRANSFORMS.register_module()
class CorruptImage(BaseTransform):
    """Corrupts the image that was read; the labels stay."""

    def __init__(self, cell: tuple[str, int]) -> None:
        """`cell`: corruption and severity."""
        self.cell = cell

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Changes `img` [H, W, 3] uint8 (BGR)."""
        image = PIL.Image.fromarray(np.ascontiguousarray(results["img"][..., ::-1]))
        changed = np.asarray(corrupted_file(image, results["img_path"], self.cell))
        results["img"] = np.ascontiguousarray(changed[..., ::-1])
        return results


@TRANSFORMS.register_module()
class ReadLabels(BaseTransform):
    """Reads class numbers as `read_label` does; a number without a class would be read beyond the loss's memory.

    Raises `UserError` for such a number and for a label of another size than its image, `BrokenImage` for a file that
    can't be decoded.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        """`data`: the arguments of `SegmentDataConfig`."""
        self.config = SegmentDataConfig(**data)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Adds `gt_seg_map` [H, W] uint8."""
        file = results["seg_map_path"]
        labels = read_label(Path(file), self.config)
        if labels.shape != results["ori_shape"][:2]:
            raise UserError(f"{file} and its image differ in size; make them equal")
        results["gt_seg_map"] = labels
        results["seg_fields"].append("gt_seg_map")
        return results


@TRANSFORMS.register_module()
class RandomScale(BaseTransform):
    """Resizes image and labels by a factor drawn uniformly from a range, relative to the image's own size."""

    def __init__(self, ratio: tuple[float, float]) -> None:
        self.ratio = ratio

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Resizes with MMCV's own step."""
        factor = float(np.random.uniform(*self.ratio))  # noqa: NPY002, the engine seeds this generator in its workers
        return Resize(scale_factor=factor, keep_ratio=True).transform(results)
