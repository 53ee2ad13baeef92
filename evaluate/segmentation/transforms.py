"""Two steps of the input pipeline: labels are checked where they are read, images scaled by a random factor."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform, Resize
from mmseg.registry import TRANSFORMS

from core.errors import UserError
from evaluate.segmentation.labels import check_values
from evaluate.segmentation.protocol import SegmentDataConfig


@TRANSFORMS.register_module()
class CheckLabels(BaseTransform):
    """Stops at a label that no class has, which would read beyond the loss's memory, and at one of another size."""

    def __init__(self, layout: Any, classes: int) -> None:
        self.config = SegmentDataConfig(layout, classes=classes)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Gives back what it gets."""
        labels = results["gt_seg_map"]
        if labels.shape != results["ori_shape"][:2]:
            raise UserError(f"{results['seg_map_path']} is not of its image's size; make both of one size")
        check_values(labels, self.config, results["seg_map_path"])
        return results


@TRANSFORMS.register_module()
class RandomScale(BaseTransform):
    """Resizes image and labels by a factor drawn evenly from a range, relative to the image's own size."""

    def __init__(self, ratio: tuple[float, float]) -> None:
        self.ratio = ratio

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Resizes by MMCV's own step."""
        factor = float(np.random.uniform(*self.ratio))  # noqa: NPY002, the engine seeds this generator in its workers
        return Resize(scale_factor=factor, keep_ratio=True).transform(results)
