"""The two sides of each comparison compute the same."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from benchmarks import knn, views
from benchmarks.probes import HEADS, _products
from benchmarks.step import loss_curves
from core.data.readers.folder import Folder
from pretrain.views.collate import collate
from pretrain.views.dataset import Views

ASKED = argparse.Namespace(width=24, classes=30)


def test_the_plain_loop_takes_the_steps_of_the_method() -> None:
    curves = loss_curves(torch.float64, torch.device("cpu"), steps=3, nudged=False, sizes=(16, 12))
    assert curves["ours"] == pytest.approx(curves["plain"], abs=1e-12)
    assert len(set(curves["plain"])) == 3


def test_the_three_ways_to_classify_agree() -> None:
    bank, queries = knn.features(600, ASKED, 0), knn.features(200, ASKED, 1)
    found, bare = knn.ours(bank, queries), knn.bare_faiss(bank, queries, ASKED.classes)
    for k, accuracy in zip(knn.KS, bare, strict=True):
        assert 5 < found[f"weighted_top1_k{k}"] < 95
        assert found[f"weighted_top1_k{k}"] == pytest.approx(accuracy)
        assert found[f"weighted_top1_k{k}"] == pytest.approx(knn.one_hot_vote(bank, queries, ASKED.classes, k))


def test_both_inputs_have_the_same_views(tmp_path: Path) -> None:
    """Same sizes and numbers; before colours the crops of both come from one distribution: their means are close."""
    views.write_photographs(tmp_path, 13)
    public = views.AllOnTheWorker(sorted(tmp_path.iterdir()))
    theirs = default_collate([public[position] for position in range(13)])
    batch = collate([Views(Folder(tmp_path, "x"), views.FIVE_VIEWS, 0)[0, position] for position in range(13)])
    ours = [view for of_type in batch.views.values() for view in of_type]
    assert [view.shape for view in theirs] == [view.images.shape for view in ours]
    mean, std = torch.tensor(views.IMAGENET_MEAN), torch.tensor(views.IMAGENET_STD)
    for one, other in zip(theirs[:2], ours[:2], strict=True):
        level = (one.mean((0, 2, 3)) * std + mean).mean()
        assert float(level) == pytest.approx(float(other.images.float().mean() / 255), abs=0.12)


def test_every_epoch_of_products_has_the_size_of_the_grid() -> None:
    sizes: list[tuple[int, int]] = []
    plain = torch.mm

    def noted(left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        sizes.append((left.shape[0], right.shape[1]))
        return plain(left, right, out=out)

    epoch = _products(argparse.Namespace(batch=8, width=6, classes=5, images=16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "mm", noted)
        epoch()
    assert sizes == [(8, 5 * HEADS), (6, 5 * HEADS)] * 2


def test_features_are_unit_vectors_around_their_classes() -> None:
    found = knn.features(500, ASKED, 0)
    np.testing.assert_allclose(np.linalg.norm(found.values, axis=1), 1, atol=1e-5)
    assert set(found.labels) <= set(range(ASKED.classes))
