"""Overclustering: matching against a brute-force search and scikit-learn, chance, growth with K, the whole command."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from core.errors import UserError
from evaluate.dense.overcluster.clustering import cluster_scores, kmeans, matched, reduced
from evaluate.dense.overcluster.measure import enlarged
from evaluate.dense.overcluster.probe import PROBE
from tests.evaluate.dense.small import SCENES, VIT, measure

RNG = np.random.default_rng(0)


def test_components_are_scikit_learns_up_to_their_sign() -> None:
    features = (RNG.normal(size=(200, 6)) @ RNG.normal(size=(6, 6)) + 3).astype(np.float32)
    features[:, 5] = 7.0
    theirs = PCA(3).fit_transform(StandardScaler().fit_transform(features))
    assert np.abs(reduced(features, 3)) == pytest.approx(np.abs(theirs), abs=1e-3)


def test_equal_numbers_are_matched_one_to_one_by_the_best_sum_of_iou() -> None:
    counts = RNG.integers(0, 50, (4, 4))
    union = counts.sum(0) + counts.sum(1)[:, None] - counts
    best = max(sum((counts / union)[label, cluster] for cluster, label in enumerate(order))
               for order in itertools.permutations(range(4)))  # fmt: skip
    found = matched(counts)
    assert sorted(found) == [0, 1, 2, 3]
    assert sum((counts / union)[label, cluster] for cluster, label in enumerate(found)) == pytest.approx(best)
    assert cluster_scores(counts)["mIoU"] == pytest.approx(100 * best / 4)


def test_more_clusters_take_the_class_of_their_highest_precision() -> None:
    counts = np.array([[9, 0, 1, 0], [1, 5, 9, 0]])
    assert matched(counts).tolist() == [0, 1, 1, 0]
    assert cluster_scores(counts)["mIoU"] == pytest.approx(100 * (9 / 11 + 14 / 16) / 2)


def test_separate_clusters_are_found_and_constant_features_score_one_class() -> None:
    labels = RNG.integers(0, 3, 300)
    points = (np.eye(3)[labels] * 10 + RNG.normal(size=(300, 3)) * 0.1).astype(np.float32)
    found = kmeans(points, 3, 0, 20, 2, 10**6)
    counts = np.zeros((3, 3), np.int64)
    np.add.at(counts, (labels, found), 1)
    assert cluster_scores(counts)["mIoU"] == 100.0
    assert (kmeans(points, 3, 0, 20, 2, 10**6) == found).all()
    one = np.zeros((3, 3), np.int64)
    one[:, 0] = np.bincount(labels)
    assert cluster_scores(one)["mIoU"] == pytest.approx(100 * np.bincount(labels).max() / 300 / 3)
    with pytest.raises(UserError, match="clusters"):
        kmeans(points[:2], 3, 0, 1, 1, 10)


def test_numbers_are_enlarged_by_the_nearest_cell() -> None:
    plane = np.arange(6).reshape(2, 3)
    assert enlarged(plane, 6).tolist() == np.kron(plane, np.ones((3, 2), int)).tolist()


def test_scenes_grow_with_k_and_are_repeatable(tmp_path: Path) -> None:
    few = ["clusters=[9,40]", "seeds=2", "iterations=5", "restarts=1", "components=8", "side=16"]
    found = measure(PROBE, tmp_path / "a", *SCENES, *few, "--draw", "1", ckpt=VIT)
    assert (found["k"], found["mIoU"]) == (9, found["mIoU_k9"])
    assert found["mIoU_k40"] > found["mIoU_k9"]
    assert measure(PROBE, tmp_path / "b", *SCENES, *few, ckpt=VIT) == found
    assert len(list((tmp_path / "a/pictures").glob("*.png"))) == 1
