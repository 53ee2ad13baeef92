"""One box per image from patch features: LOST and TokenCut; and how well boxes overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.linalg import eigh

Cells = tuple[int, int, int, int]
"""First column, first row, last column + 1, last row + 1 of a box of cells."""


def lost(features: NDArray[np.floating], grid: tuple[int, int], lowest: int) -> Cells:
    """Box of LOST (Siméoni et al., arXiv 2109.14279): features [h·w, D], row by row.

    The seed has the fewest positive similarities. Of the `lowest` patches of least degree those similar to the seed
    join it; the object is the seed's component of all patches whose summed similarity to them is positive.
    """
    similar = features @ features.T
    degree = (similar > 0).sum(1)
    seed = int(degree.argmin())
    order = np.argsort(degree, kind="stable")[:lowest]
    companions = order[similar[seed, order] > 0]
    companions = np.union1d(companions, [seed])
    mask = similar[companions].sum(0) > 0
    mask[seed] = True
    return component_box(mask.reshape(grid), seed)


def tokencut(features: NDArray[np.floating], grid: tuple[int, int], threshold: float) -> Cells:
    """Box of TokenCut (Wang et al., arXiv 2202.11539): features [h·w, D], row by row.

    Patches are connected by 1 where their cosine is above `threshold`, else by 1e-5. The eigenvector of the second
    smallest eigenvalue of (D − A) x = λ D x is split at its mean; the side with the largest absolute entry is the
    object.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    weights = np.where(unit @ unit.T > threshold, 1.0, 1e-5)
    degrees = np.diag(weights.sum(1))
    vector = eigh(degrees - weights, degrees, subset_by_index=[1, 1])[1][:, 0]
    seed = int(np.abs(vector).argmax())
    above = vector > vector.mean()
    mask = above if above[seed] else ~above
    return component_box(mask.reshape(grid), seed)


def component_box(mask: NDArray[np.bool_], seed: int) -> Cells:
    """Box of the component (of edge neighbours) that holds cell number `seed`."""
    components, _ = ndimage.label(mask)
    rows, columns = np.nonzero(components == components.flat[seed])
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def overlaps(box: NDArray[np.floating], boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """IoU of a box [4] with each of N [N, 4]; left, top, right, bottom, half-open."""
    width = np.minimum(box[2], boxes[:, 2]) - np.maximum(box[0], boxes[:, 0])
    height = np.minimum(box[3], boxes[:, 3]) - np.maximum(box[1], boxes[:, 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return shared / np.maximum((box[2] - box[0]) * (box[3] - box[1]) + areas - shared, 1e-12)


def located(box: NDArray[np.floating], boxes: NDArray[np.floating]) -> bool:
    """True if the box overlaps any of the boxes with an IoU above 0.5 (CorLoc)."""
    return bool(len(boxes) and overlaps(box, boxes).max() > 0.5)


def centred_square(size: tuple[int, int], share: float) -> NDArray[np.float64]:
    """Central square of `share` of the shorter side of an image of (width, height)."""
    half = share * min(size) / 2
    return np.array([size[0] / 2 - half, size[1] / 2 - half, size[0] / 2 + half, size[1] / 2 + half])
