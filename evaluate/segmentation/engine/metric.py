"""IoU and accuracies from a confusion matrix of whole numbers, as a metric of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmseg.registry import METRICS
from numpy.typing import NDArray

from evaluate.segmentation.data.labels import IGNORED


@METRICS.register_module()
class ConfusionMetric(BaseMetric):
    """Counts every pixel that isn't ignored; exact for any number of them, over all processes."""

    default_prefix = None

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Adds the confusion matrix of each image."""
        classes = len(self.dataset_meta["classes"])
        for sample in data_samples:
            predicted = sample["pred_sem_seg"]["data"].squeeze(0)
            truth = sample["gt_sem_seg"]["data"].squeeze(0).to(predicted.device)
            self.results.append(confusion(predicted, truth, classes))

    def compute_metrics(self, results: list[NDArray[np.int64]]) -> dict[str, Any]:
        """`scores` of all images together."""
        return scores(np.sum(results, axis=0), list(self.dataset_meta["classes"]))


def confusion(predicted: torch.Tensor, truth: torch.Tensor, classes: int) -> NDArray[np.int64]:
    """How many pixels of each true class (row) were given which class (column): [classes, classes].

    predicted, truth [H, W]; truth 255 is left out.
    """
    counted = truth != IGNORED
    index = truth[counted].long() * classes + predicted[counted].long()
    return torch.bincount(index, minlength=classes**2).reshape(classes, classes).cpu().numpy()


def scores(matrix: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """mIoU, mAcc, aAcc and the IoU of each class, in percent, from a confusion matrix (rows: truth).

    Means are over the classes that occur: in truth or prediction for IoU, in truth for accuracy. A class that occurs
    in neither has no IoU (None).
    """
    right, true, given = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    union = true + given - right
    iou = [100 * float(r / u) if u else None for r, u in zip(right, union, strict=True)]
    accuracy = [100 * float(r / t) for r, t in zip(right, true, strict=True) if t]
    occurring = [value for value in iou if value is not None]
    return {
        "mIoU": sum(occurring) / len(occurring),
        "mAcc": sum(accuracy) / len(accuracy),
        "aAcc": 100 * float(right.sum() / matrix.sum()),
        "IoU": dict(zip(names, iou, strict=True)),
    }
