"""Clusters of patches and their classes: standardise, PCA, k-means, matching."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from core.errors import UserError
from evaluate.dense.confusion import mean_iou

_ROWS = 65536


def reduced(features: NDArray[np.float32], components: int) -> NDArray[np.float32]:
    """Standardised features [N, D] in their first principal components [N, min(components, D)].

    The sign of each component is fixed by its largest entry, so that equal features give equal numbers.
    """
    mean = features.mean(0, dtype=np.float64)
    deviation = features.std(0, dtype=np.float64)
    factor = 1 / np.where(deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-30), 1.0, deviation)
    blocks = [slice(start, start + _ROWS) for start in range(0, len(features), _ROWS)]
    covariance = np.zeros((features.shape[1],) * 2)
    for block in blocks:
        standard = (features[block] - mean) * factor
        covariance += standard.T @ standard / len(features)
    _, vectors = np.linalg.eigh(covariance)
    vectors = vectors[:, ::-1][:, :components]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    return np.concatenate([((features[block] - mean) * factor @ vectors).astype(np.float32) for block in blocks])


def kmeans(
    points: NDArray[np.float32], clusters: int, seed: int, iterations: int, restarts: int, most: int
) -> NDArray[np.int64]:
    """Cluster of each point, [N], by FAISS's k-means. Raises `UserError` for fewer points than clusters."""
    try:
        import faiss
    except ImportError:
        raise UserError("clusters are found by FAISS, which is missing: pip install -e '.[faiss-cpu]'") from None
    if len(points) < clusters:
        raise UserError(f"{clusters} clusters need as many patches, and there are {len(points)}; lower clusters")
    seen = points
    if len(points) > most:
        seen = points[np.sort(np.random.default_rng((seed, clusters)).permutation(len(points))[:most])]
    found = faiss.Kmeans(
        points.shape[1], clusters, niter=iterations, nredo=restarts, seed=seed + 1, verbose=False,
        min_points_per_centroid=1, max_points_per_centroid=len(seen),
    )  # fmt: skip
    found.train(seen)
    _, nearest = found.index.search(points, 1)
    return nearest[:, 0]


def matched(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Class of each cluster, [K], from pixels by class and cluster [C, K].

    K = C: the one-to-one matching of the largest sum of IoU (Hungarian). Otherwise the class that fills the largest
    share of the cluster (many to one); the first of several; class 0 for an empty cluster.
    """
    classes, clusters = counts.shape
    if classes != clusters:
        return counts.argmax(0)
    union = counts.sum(0, keepdims=True) + counts.sum(1, keepdims=True) - counts
    iou = counts / np.maximum(union, 1)
    rows, columns = linear_sum_assignment(-iou)
    found = np.empty(clusters, np.int64)
    found[columns] = rows
    return found


def cluster_scores(counts: NDArray[np.int64]) -> dict[str, Any]:
    """mIoU in percent of clusters matched to classes, and the matching, from pixels by class and cluster [C, K]."""
    classes = counts.shape[0]
    of_cluster = matched(counts)
    matrix = np.zeros((classes, classes), np.int64)
    for cluster, label in enumerate(of_cluster):
        matrix[:, label] += counts[:, cluster]
    return {"mIoU": mean_iou(matrix), "classes": of_cluster, "matrix": matrix}
