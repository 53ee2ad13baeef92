"""Mean IoU and accuracies from a confusion matrix of integers, summed over ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.data.base import ImageSet
from core.distributed import sum_over_ranks
from core.errors import BrokenImage
from evaluate.dense.data import IGNORED, semantic_of


def confusion(truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Pixels by true class (row) and predicted class (column), [classes, classes]; pixels of truth 255 don't count."""
    counted = truth != IGNORED
    index = truth[counted].astype(np.int64) * classes + predicted[counted]
    return np.bincount(index, minlength=classes**2).reshape(classes, classes)


def over_ranks(matrix: NDArray[np.int64], device: torch.device) -> NDArray[np.int64]:
    """Sum of an integer array over ranks."""
    return sum_over_ranks(torch.from_numpy(matrix).to(device)).cpu().numpy()


def mean_iou(matrix: NDArray[np.int64]) -> float:
    """Percent, over the classes that occur in truth or prediction. Raises `ValueError` if no pixel was counted."""
    iou = class_iou(matrix)
    if np.isnan(iou).all():
        raise ValueError("no pixel has a class")
    return float(np.nanmean(iou))


def class_iou(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU of each class in percent; NaN for a class that occurs in neither truth nor prediction."""
    right = np.diag(matrix)
    union = matrix.sum(0) + matrix.sum(1) - right
    return np.where(union > 0, 100.0 * (right / np.maximum(union, 1)), np.nan)


def scores(matrix: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """mIoU, aAcc and the IoU of each class (None for one that never occurs), in percent."""
    iou = class_iou(matrix)
    return {
        "mIoU": mean_iou(matrix),
        "aAcc": 100.0 * float(np.trace(matrix) / matrix.sum()),
        "IoU": {name: None if np.isnan(value) else float(value) for name, value in zip(names, iou, strict=True)},
    }


def majority(train: NDArray[np.int64], val: NDArray[np.int64]) -> dict[str, float]:
    """mIoU and pixel accuracy of the most frequent training class everywhere, from pixels per class of both parts."""
    label = int(train.argmax())
    matrix = np.zeros((len(val), len(val)), np.int64)
    matrix[:, label] = val
    return {"majority_mIoU": mean_iou(matrix), "majority_aAcc": 100.0 * float(val[label] / val.sum())}


def pixels_of(images: ImageSet, positions: Iterable[int], count: int) -> NDArray[np.int64]:
    """Pixels of each class in these images, [count]; broken ones are left out, and reported where they are used."""
    total = np.zeros(count, np.int64)
    for position in positions:
        with contextlib.suppress(BrokenImage):
            total += pixels_per_class(semantic_of(images, position), count)
    return total


def pixels_per_class(classes: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """Pixels of each class in class maps of any shape, [count]."""
    return np.bincount(classes[classes != IGNORED].ravel(), minlength=count).astype(np.int64)
