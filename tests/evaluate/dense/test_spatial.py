"""Position and scale of pairs, and jigsaw puzzles: definitions, chance, oracles, the whole commands."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from evaluate.dense.jigsaw.measure import _neighbour_chance, related
from evaluate.dense.jigsaw.probe import PROBE as JIGSAW
from evaluate.dense.jigsaw.tiles import decoded, moved_cells, permutations, puzzle_scores
from evaluate.dense.mlp import MlpConfig, standardised, train_mlp
from evaluate.dense.spatial_pairs.pairs import draw_pair, overlap, relation
from evaluate.dense.spatial_pairs.probe import PROBE as PAIRS
from evaluate.dense.spatial_pairs.protocol import PairConfig
from evaluate.dense.spatial_pairs.regress import chance, octants, ridge, scores
from tests.evaluate.dense.small import VIT, measure

RNG = np.random.default_rng(0)


def test_relations_are_antisymmetric_additive_and_free_of_the_resolution() -> None:
    a, b, c = (10, 20, 30, 40), (50, 10, 20, 20), (0, 0, 25, 35)
    assert relation(a, b) == pytest.approx([-value for value in relation(b, a)])
    assert relation(a, a) == (0, 0, 0, 0)
    assert relation(a, c)[2] == pytest.approx(relation(a, b)[2] + relation(b, c)[2])
    doubled = [tuple(2 * value for value in box) for box in (a, b)]
    assert relation(*doubled) == pytest.approx(relation(a, b))  # type: ignore[arg-type]
    assert relation(a, b)[0] == pytest.approx((60 - 25) / math.sqrt(600))


def test_pairs_are_disjoint_where_they_can_be_and_spread_as_the_design_says() -> None:
    config = PairConfig()
    pairs = [draw_pair((96, 96), config, image, 0) for image in range(1500)]
    assert np.mean([overlap(*pair) == 0 for pair in pairs]) > 0.95
    found = np.array([relation(*pair) for pair in pairs])
    assert found[:, :2].std(0) == pytest.approx([1.10, 1.09], abs=0.06)
    assert found[:, 2:].std(0) == pytest.approx([0.36, 0.35], abs=0.03)
    assert draw_pair((96, 96), config, 3, 1) == draw_pair((96, 96), config, 3, 1) != draw_pair((96, 96), config, 3, 2)


def test_ridge_and_r2_are_scikit_learns() -> None:
    for width in (5, 60):
        train, targets, test = RNG.normal(size=(40, width)), RNG.normal(size=(40, 4)), RNG.normal(size=(9, width))
        theirs = Ridge(alpha=0.1 * 40).fit(train, targets).predict(test)
        assert ridge(train, targets, test, 0.1) == pytest.approx(theirs)
    truth, guess = RNG.normal(size=(200, 4)), RNG.normal(size=(200, 4))
    found = scores(guess, truth, truth)
    assert found["dx_r2"] == pytest.approx(r2_score(truth[:, 0], guess[:, 0]))
    assert scores(truth, truth, truth)["octant"] == 100.0


def test_octants_and_chance() -> None:
    angles = np.deg2rad([0, 44, 46, 90, 180, 270, -1])
    assert octants(np.c_[np.cos(angles), np.sin(angles)]).tolist() == [0, 1, 1, 2, 4, 6, 0]
    truth = RNG.normal(size=(4000, 4))
    found = chance(truth, truth)
    assert found["position_r2"] == pytest.approx(0, abs=1e-9)
    assert 12.5 <= found["octant"] < 16


def test_a_small_network_learns_a_product_that_a_linear_map_cannot() -> None:
    inputs = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
    target = inputs[:, :1] * inputs[:, 1:]
    rows, same = standardised(inputs, inputs)
    assert rows.equal(same)
    config = MlpConfig(width=64, epochs=60, batch=100, lr=3e-3)
    loss = torch.nn.functional.mse_loss
    network = train_mlp(rows, target, 1, loss, config, 0)
    assert loss(network(rows), target) < 0.1 * target.var()
    assert network(rows).equal(train_mlp(rows, target, 1, loss, config, 0)(rows))


def test_pairs_of_scenes(tmp_path: Path) -> None:
    few = ["train_limit=12", "val_limit=6", "pairs.per_image=2", "mlp.epochs=2", "mlp.width=16"]
    found = measure(PAIRS, tmp_path / "a", *few, "--draw", "1", ckpt=VIT)
    assert found["scale_r2"] == found["equalised"]["mlp"]["scale_r2"]
    assert found["octant_chance"] >= 12.5
    assert found["plain"]["ridge"]["penalty"] > 0
    assert measure(PAIRS, tmp_path / "b", *few, ckpt=VIT) == found
    assert len(list((tmp_path / "a/pictures").glob("*.png"))) == 1


def test_the_true_order_gives_back_the_image_bit_for_bit() -> None:
    pixels = RNG.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    assert (moved_cells(pixels, 3, np.arange(9)) == pixels).all()
    order = np.array([3, 1, 0, 2])
    moved = moved_cells(pixels, 2, order)
    assert (moved[6:, 6:] == pixels[:6, :6]).all()
    assert (moved_cells(moved, 2, np.argsort(order)) == pixels).all()


@pytest.mark.parametrize("grid", [2, 3])
def test_chance_levels_of_puzzles(grid: int) -> None:
    orders = permutations(6000, grid**2, 0)
    found = puzzle_scores(orders, grid)
    assert found["place"] == pytest.approx(100 / grid**2, rel=0.06)
    assert found["whole"] == pytest.approx(100 / math.factorial(grid**2), abs=0.8)
    assert found["neighbours"] == pytest.approx({2: 100 / 6, 3: 100 / 12}[grid], rel=0.06)
    assert _neighbour_chance(grid) == pytest.approx({2: 100 / 6, 3: 100 / 12}[grid])
    assert puzzle_scores(np.arange(grid**2)[None], grid) == {"place": 100.0, "whole": 100.0, "neighbours": 100.0}


def test_orders_are_decoded_one_to_one_and_equal_scores_reveal_nothing() -> None:
    scores_ = RNG.normal(size=(50, 4, 4))
    shuffles = permutations(50, 4, 1)
    assert (np.sort(decoded(scores_, shuffles), axis=1) == np.arange(4)).all()
    assert (decoded(scores_, shuffles) == decoded(scores_, permutations(50, 4, 2))).all()
    constant = puzzle_scores(decoded(np.zeros((4000, 4, 4)), permutations(4000, 4, 3)), 2)
    assert constant["place"] == pytest.approx(25, abs=2)
    assert puzzle_scores(decoded(np.broadcast_to(np.eye(4), (50, 4, 4)), shuffles), 2)["whole"] == 100.0
    tiles = torch.randn(3, 4, 5)
    turned = [2, 0, 1, 3]  # the probe is blind to the order in which tiles come
    torch.testing.assert_close(related(tiles)[:, turned], related(tiles[:, turned]))


def test_puzzles_of_scenes(tmp_path: Path) -> None:
    few = ["train_limit=24", "val_limit=10", "mlp.epochs=2", "mlp.width=16", "k=3", "features.transform.resize=32",
           "features.transform.crop=32", "tile_size=16"]  # fmt: skip
    found = measure(JIGSAW, tmp_path, *few, "--draw", "1", ckpt=VIT)
    assert 0 <= found["place"] <= 100
    assert {"intact", "reconstructed", "shuffled"} <= found.keys()
    assert found["chance_class"] == 12.5
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1


def test_a_tolerated_broken_image_is_not_drawn(image_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(image_folder, tmp_path / "images")
    (tmp_path / "images/val/cat/0.jpg").write_bytes(b"\xff\xd8 not a picture")
    few = ["pairs.per_image=2", "mlp.epochs=2", "mlp.width=16", "features.broken_share=0.5"]
    few += ["features.transform.resize=32", "features.transform.crop=32"]
    data = f"folder:{tmp_path / 'images'}"
    measure(PAIRS, tmp_path / "out", "--data", data, *few, "--draw", "12", ckpt=VIT)
    assert len(list((tmp_path / "out/pictures").glob("*.png"))) == 11
