"""Dense retrieval: soft labels, sampling, vote; an oracle's features reach the ceiling; the whole command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from core.data.scenes.render import ScenesConfig
from core.errors import UserError
from evaluate.dense.data import SemanticScenes, semantic_of
from evaluate.dense.dense_knn.measure import enlarged_classes, weighted_labels
from evaluate.dense.dense_knn.memory import AugmentedPass, rare_first, soft_labels
from evaluate.dense.dense_knn.probe import PROBE
from evaluate.dense.dense_knn.protocol import MemoryConfig
from tests.evaluate.dense.small import SCENES, VIT, measure, write_voc


def test_soft_labels_are_shares_of_pixels_and_ignored_ones_are_missing() -> None:
    classes = np.random.default_rng(0).integers(0, 3, (16, 24)).astype(np.uint8)
    classes[:4, :4] = 255
    found = soft_labels(classes, 5, 4, 6)
    assert found.shape == (24, 5)
    assert found[0].sum() == 0
    assert found[1:].sum(1) == pytest.approx(1)
    assert found[8, 2] == pytest.approx((classes[4:8, 8:12] == 2).mean())


def test_patches_of_rare_classes_are_sampled_first() -> None:
    labels = np.zeros((100, 3), np.float32)
    labels[:90, 0] = 1
    labels[90:98, 1] = 1  # eight of a rare class; two without a label
    drawn = [rare_first(labels, 10, np.random.default_rng(seed)) for seed in range(50)]
    assert np.mean([np.isin(np.arange(90, 98), own).sum() for own in drawn]) > 4, "a uniform sample has 0.8"
    assert not any((own >= 98).any() for own in drawn)
    assert len(rare_first(labels, 200, np.random.default_rng(0))) == 98


def test_the_vote_is_a_softmax_over_neighbours_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    bank, queries = (rng.normal(size=(n, 8)).astype(np.float32) for n in (40, 6))
    bank, queries = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in (bank, queries))
    labels = rng.dirichlet(np.ones(4), 40).astype(np.float32)
    distances, rows = NearestNeighbors(n_neighbors=5, metric="cosine", algorithm="brute").fit(bank).kneighbors(queries)
    found = weighted_labels((1 - distances).astype(np.float32), labels[rows], 0.02)
    for query, own, near in zip(queries, found, rows, strict=True):
        weights = torch.softmax(torch.from_numpy(bank[near] @ query) / 0.02, 0).numpy()
        assert own == pytest.approx((weights[:, None] * labels[near]).sum(0), abs=1e-4)


def test_one_hot_cells_come_back_exactly() -> None:
    classes = np.kron(np.array([[0, 1], [2, 0]]), np.ones((8, 8))).astype(np.uint8)
    shares = soft_labels(classes, 3, 2, 2).T.reshape(3, 2, 2)
    assert (enlarged_classes(shares, 16) == classes).mean() > 0.85, "only the seam is interpolated"
    assert enlarged_classes(shares, 16)[0, 0] == 0


def test_a_pass_crops_image_and_labels_alike_and_is_repeatable() -> None:
    scenes = SemanticScenes("train", ScenesConfig(size=32, train=2, radius=(0.3, 0.4)))
    one, same, other = (AugmentedPass(scenes, MemoryConfig(colour=0.0), 32, 0, number) for number in (0, 0, 1))
    assert (np.asarray(one.image(0)) == np.asarray(same.image(0))).all()
    assert one.digest() == same.digest() != other.digest()
    assert (one.semantic(0) != other.semantic(0)).any()
    plain = AugmentedPass(scenes, MemoryConfig(passes=1, augment=False), 32, 0, 0)
    assert (plain.semantic(1) == semantic_of(scenes, 1)).all()
    assert plain.digest() == scenes.digest()


def test_scenes_with_pictures_and_chance(tmp_path: Path) -> None:
    few = ["memory.patches=200", "k=5"]
    found = measure(PROBE, tmp_path / "a", *SCENES, *few, "--draw", "1", ckpt=VIT)
    again = measure(PROBE, tmp_path / "b", *SCENES, *few, ckpt=VIT)
    assert found == again
    assert found["mIoU"] <= found["ceiling_mIoU"] <= 100
    assert found["patches"] <= 200
    assert len(list((tmp_path / "a/pictures").glob("*.png"))) == 1


def test_vocs_layout_with_augmentation(tmp_path: Path) -> None:
    data = ["--data", f"voc12aug:{write_voc(tmp_path)}", "features.size=32", "memory.patches=100", "k=5"]
    found = measure(PROBE, tmp_path / "out", *data)
    assert found["aAcc"] > found["majority_aAcc"] + 20, "the colour of a cell is its class"


def test_a_memory_smaller_than_k_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="k=30"):
        measure(PROBE, tmp_path, *SCENES, "memory.patches=16")
