"""IoU and accuracies from a confusion matrix of integers, as a metric of the engine."""

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
    """Confusion matrix of all pixels that are not ignored, over all processes; exact for any number of pixels."""

    default_prefix = None

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Adds the confusion matrix of each image."""
        classes = len(self.dataset_meta["classes"])
        for sample in data_samples:
            predicted = sample["pred_sem_seg"]["data"].squeeze(0)
            truth = sample["gt_sem_seg"]["data"].squeeze(0).to(predicted.device)
            self.results.append(confusion(predicted, truth, classes))

    def compute_metrics(self, results: list[NDArray[np.int64]]) -> dict[str, Any]:
        """`scores` over all images."""
        return scores(np.sum(results, axis=0), list(self.dataset_meta["classes"]))


def confusion(predicted: torch.Tensor, truth: torch.Tensor, classes: int) -> NDArray[np.int64]:
    """Pixels by true class (row) and predicted class (column), [classes, classes] int64.

    predicted, truth: [H, W]; pixels with truth 255 are not counted.
    """
    counted = truth != IGNORED
    index = truth[counted].long() * classes + predicted[counted].long()
    return torch.bincount(index, minlength=classes**2).reshape(classes, classes).cpu().numpy()


def scores(matrix: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """mIoU, mAcc, aAcc and the IoU of each class, in percent, from a confusion matrix [classes, classes] (rows: truth).

    Means are over the classes that occur: in truth or prediction for IoU, in truth for accuracy. A class that occurs
    in neither has the IoU None.
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
