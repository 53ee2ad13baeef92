"""Region similarity J and contour accuracy F of DAVIS 2017, and their statistics per object."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


def region_similarity(truth: Mask, found: Mask) -> float:
    """IoU of two masks; 1 where both are empty."""
    union = int((truth | found).sum())
    return float((truth & found).sum() / union) if union else 1.0


def boundary(mask: Mask) -> Mask:
    """Pixels that differ from their right, lower or lower-right neighbour; at the border, from those that exist."""
    found = np.zeros_like(mask)
    found[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    found[:-1] |= mask[:-1] != mask[1:]
    found[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return found


def contour_accuracy(truth: Mask, found: Mask) -> float:
    """F of boundary precision and recall, with a tolerance of 0.8 % of the image's diagonal (rounded up)."""
    reach = math.ceil(0.008 * math.hypot(*truth.shape))
    lines = [boundary(mask) for mask in (truth, found)]
    counts = [int(line.sum()) for line in lines]
    if not counts[0] or not counts[1]:
        return float(counts[0] == counts[1])
    near = [ndimage.distance_transform_edt(~line) <= reach for line in lines]
    precision, recall = (lines[1] & near[0]).sum() / counts[1], (lines[0] & near[1]).sum() / counts[0]
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def statistics(values: NDArray[np.float64]) -> dict[str, float]:
    """Mean, recall (share above 0.5) and decay (first quarter minus last) of one object's frames, as shares."""
    ends = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    quarters = [values[ends[number] : ends[number + 1] + 1] for number in (0, 3)]
    return {
        "mean": float(values.mean()),
        "recall": float((values > 0.5).mean()),
        "decay": float(quarters[0].mean() - quarters[1].mean()),
    }


def object_scores(truth: NDArray[np.uint8], found: NDArray[np.uint8], objects: int) -> list[dict[str, Any]]:
    """J and F of each object over frames 1 … n − 2 of index maps [n, H, W]; the first and the last don't count."""
    rows = []
    for number in range(1, objects + 1):
        pairs = [(own == number, given == number) for own, given in zip(truth[1:-1], found[1:-1], strict=True)]
        j = np.array([region_similarity(*pair) for pair in pairs])
        f = np.array([contour_accuracy(*pair) for pair in pairs])
        rows.append({"object": number, "J": statistics(j), "F": statistics(f)})
    return rows


def joined(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Percent: means over all objects of all sequences; J&F is the mean of both means."""
    found = {
        f"{name}_{key}": 100 * float(np.mean([row[name][key] for row in rows]))
        for name in ("J", "F")
        for key in ("mean", "recall", "decay")
    }
    return {"J_and_F": (found["J_mean"] + found["F_mean"]) / 2, **found}
