"""Nearest cells of a map for features of points, and which of the matches are right."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


def cell_centres(height: int, width: int, size: float) -> NDArray[np.float64]:
    """Centres (x, y) of the cells of a map over a square of `size` pixels, row by row, [h·w, 2]."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([(columns.ravel() + 0.5) * size / width, (rows.ravel() + 0.5) * size / height], axis=1)


def sampled(features: Tensor, points: NDArray[np.float64], size: float) -> Tensor:
    """Features [D, h, w] at points (x, y) in pixels of a square of `size`, bilinear: [K, D]."""
    places = torch.from_numpy(2 * points / size - 1).to(features.dtype)
    found = functional.grid_sample(features[None], places[None, None], align_corners=False, padding_mode="border")
    return found[0, :, 0].T


def matches(source: Tensor, target: Tensor, size: float) -> NDArray[np.float64]:
    """Centre of the target's nearest cell by cosine, for each source feature [K, D]: (x, y) in pixels, [K, 2]."""
    cells = functional.normalize(target.flatten(1).T, dim=1)
    nearest = (functional.normalize(source, dim=1) @ cells.T).argmax(1).numpy()
    return cell_centres(target.shape[1], target.shape[2], size)[nearest]


def within(found: NDArray[np.float64], truth: NDArray[np.float64], radius: float) -> NDArray[np.bool_]:
    """True where a match lies at most `radius` pixels from the truth, [K]."""
    return np.linalg.norm(found - truth, axis=1) <= radius


def chance_of(truth: NDArray[np.float64], centres: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Share of the target's cells that would be right for each point, [K]."""
    return (np.linalg.norm(truth[:, None] - centres[None], axis=2) <= radius).mean(1)
