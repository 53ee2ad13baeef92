"""Spatial prediction: the relation of two boxes, antisymmetry, mirrored pairs, size of the first loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain.losses.base import Progress
from pretrain.losses.spatial_prediction import SpatialPrediction, relation
from pretrain.views.dataset import draw_apart
from tests.pretrain.losses.test_auxiliary import HEADS, PART, SPATIAL
from tests.pretrain.losses.tiny_losses import RESNET, build, recipe


def boxes(count: int, width: int = 96, height: int = 96) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    pairs = [draw_apart(width, height, (0.05, 0.25), (3 / 4, 4 / 3), rng) for _ in range(count)]
    return np.array([a for a, _ in pairs], dtype=np.float32), np.array([b for _, b in pairs], dtype=np.float32)


STILL = np.zeros(2000, dtype=bool)


def test_a_pair_by_hand() -> None:
    first, second = np.array([[0, 0, 10, 20.0]]), np.array([[15, 30, 40, 5.0]])
    expected = [(35 - 5) / 20, (32.5 - 10) / 10, np.log(4), np.log(1 / 4)]
    np.testing.assert_allclose(relation(first, second, STILL[:1]), [expected])
    np.testing.assert_allclose(relation(first, second, ~STILL[:1]), [[-expected[0], *expected[1:]]])


def test_relations_are_antisymmetric_free_of_the_images_size_and_additive_in_scale() -> None:
    first, second = boxes(2000)
    there, back = relation(first, second, STILL), relation(second, first, STILL)
    np.testing.assert_allclose(there, -back, atol=1e-12)
    np.testing.assert_allclose(relation(3 * first, 3 * second, STILL), there, rtol=1e-6, atol=1e-6)
    third = np.roll(second, 1, 0)
    chain = relation(first, second, STILL) + relation(second, third, STILL)
    np.testing.assert_allclose(chain[:, 2:], relation(first, third, STILL)[:, 2:], atol=1e-12)
    mirrored_boxes = [np.column_stack([96 - b[:, 0] - b[:, 2], b[:, 1:]]) for b in (first, second)]
    np.testing.assert_allclose(relation(*mirrored_boxes, STILL), relation(first, second, ~STILL), atol=1e-5)


def test_the_default_constants_standardise_square_images() -> None:
    stds = relation(*boxes(2000), STILL).std(0)
    assert stds == pytest.approx([1.1, 1.1, 0.35, 0.35], rel=0.06)


def loss_of(pairs: tuple[np.ndarray, np.ndarray], flips: np.ndarray) -> tuple[SpatialPrediction, list[dict]]:
    method = build(recipe(*HEADS, RESNET, PART, SPATIAL))
    return method.auxiliaries["spatial_prediction"], [{"box": box, "flip": flips} for box in pairs]


def test_an_untrained_head_starts_near_the_expected_loss_and_knows_nothing() -> None:
    loss, parameters = loss_of(boxes(2000), STILL)
    found = loss(torch.randn(4000, 16, dtype=torch.float64), parameters, Progress())
    assert sum(found.values()).item() == pytest.approx(0.45, abs=0.05)
    assert all(value < 0.1 for value in loss.health().values())


def test_predictions_are_antisymmetric_and_the_loss_blind_to_the_order_of_the_pair() -> None:
    loss, parameters = loss_of(boxes(32), STILL[:32])
    vectors = torch.randn(64, 16, dtype=torch.float64)
    forward = sum(loss(vectors, parameters, Progress()).values())
    prediction = loss._last[0]
    swapped = sum(loss(torch.cat(vectors.chunk(2)[::-1]), parameters[::-1], Progress()).values())
    torch.testing.assert_close(loss._last[0], -prediction)
    torch.testing.assert_close(swapped, forward)


def test_a_perfect_head_has_no_loss_and_r2_one() -> None:
    loss, parameters = loss_of(boxes(32), STILL[:32])
    target = torch.from_numpy(relation(parameters[0]["box"], parameters[1]["box"], STILL[:32]))
    standard = target / torch.tensor([1.1, 1.1, 0.35, 0.35])

    class Oracle(torch.nn.Module):
        def forward(self, pairs: torch.Tensor) -> torch.Tensor:
            return torch.cat([standard, -standard])

    loss.heads["relation"] = Oracle()
    assert sum(loss(torch.randn(64, 16, dtype=torch.float64), parameters, Progress()).values()).item() < 1e-12
    assert min(loss.health().values()).item() == pytest.approx(1)
