"""Steps of the input pipeline: reading that tells what is broken or wrong, and scaling by a random factor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform, Resize
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS

from core.data.decode import decode_rgb
from core.errors import UserError
from evaluate.segmentation.data.labels import check_values, read_label
from evaluate.segmentation.protocol import SegmentDataConfig


@TRANSFORMS.register_module()
class ReadImage(BaseTransform):
    """Decodes by Pillow, which tells a truncated file from a whole one, and leaves orientation tags alone as labels do.

    Raises `BrokenImage`.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Adds `img` [H, W, 3] uint8 in the engine's order, BGR, and its size."""
        image = np.asarray(decode_rgb(Path(results["img_path"]), results["img_path"]))
        results["img"] = np.ascontiguousarray(image[..., ::-1])
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results


@TRANSFORMS.register_module()
class ReadLabels(BaseTransform):
    """The engine's step, which stops at a label that no class has (it would read beyond the loss's memory), and at one
    of another size than its image. Raises `UserError` for these and `BrokenImage` for a file that can't be decoded."""

    def __init__(self, layout: Any, classes: int) -> None:
        self.config, self.engines = SegmentDataConfig(layout, classes=classes), LoadAnnotations()

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Adds `gt_seg_map` [H, W] uint8."""
        file = results["seg_map_path"]
        try:
            results = self.engines.transform(results)
        except Exception:
            read_label(Path(file), self.config)  # says it in our words where the file is at fault
            raise
        labels = results["gt_seg_map"]
        if labels.shape != results["ori_shape"][:2]:
            raise UserError(f"{file} is not of its image's size; make both of one size")
        check_values(labels, self.config, file)
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
