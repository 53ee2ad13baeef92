"""Errors of one depth map, and their means over images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

KEYS = ("rmse", "abs_rel", "delta1", "log10", "silog")


def errors(predicted: NDArray[np.floating], truth: NDArray[np.floating]) -> tuple[float, ...]:
    """Errors over the pixels of one image, in the order of `KEYS`; predicted and truth [N] > 0, in metres.

    RMSE in metres; mean |ŷ − y| / y; share in percent with max(ŷ/y, y/ŷ) < 1.25; mean |log10 ŷ − log10 y|; 100 times
    the standard deviation of ln ŷ − ln y (Eigen et al., arXiv 1406.2283).
    """
    given, true = predicted.astype(np.float64), truth.astype(np.float64)
    logs = np.log(given) - np.log(true)
    return (
        float(np.sqrt(np.mean((given - true) ** 2))),
        float(np.mean(np.abs(given - true) / true)),
        100.0 * float(np.mean(np.maximum(given / true, true / given) < 1.25)),
        float(np.mean(np.abs(logs))) / math.log(10),
        100.0 * math.sqrt(max(float(np.mean(logs**2) - np.mean(logs) ** 2), 0.0)),
    )


def means(rows: Sequence[Sequence[float]], prefix: str = "") -> dict[str, float]:
    """Mean of each error over images; empty for no images."""
    columns = zip(*rows, strict=True)
    return {f"{prefix}{key}": float(np.mean(column)) for key, column in zip(KEYS, columns, strict=False)}


def valid_pixels(truth: NDArray[np.floating], range_: tuple[float, float], crop: str) -> NDArray[np.bool_]:
    """Pixels of one image that count, [H, W]: depth inside the range (exclusive) and place inside the crop."""
    height, width = truth.shape
    inside = np.zeros_like(truth, dtype=bool)
    if crop == "eigen":
        inside[45:471, 41:601] = True
    elif crop == "garg":
        rows = slice(int(0.40810811 * height), int(0.99189189 * height))
        inside[rows, int(0.03594771 * width) : int(0.96405229 * width)] = True
    else:
        inside[:] = True
    return inside & (truth > range_[0]) & (truth < range_[1])
