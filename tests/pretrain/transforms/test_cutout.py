"""Cutout: the distribution of its boxes, and what is filled."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pretrain.transforms import cutout

SIZE = 1000  # large, so that rounding to pixels doesn't show in the distributions


@pytest.fixture(scope="module")
def boxes() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([cutout.draw(cutout.Config(), SIZE, rng)["box"] for _ in range(4000)])


def test_the_area_is_uniform_between_a_fifth_and_two_fifths(boxes: np.ndarray) -> None:
    area = boxes[:, 2] * boxes[:, 3] / SIZE**2
    assert area.min() > 0.2 - 0.001  # each side is rounded by half a pixel at most
    assert area.max() < 0.4 + 0.001
    assert stats.kstest(area, "uniform", (0.2, 0.2)).pvalue > 0.01


def test_the_aspect_is_log_uniform(boxes: np.ndarray) -> None:
    aspect = np.log(boxes[:, 3] / boxes[:, 2])
    low, high = math.log(3 / 4), math.log(4 / 3)
    assert aspect.min() > low - 0.003
    assert aspect.max() < high + 0.003
    assert stats.kstest(aspect, "uniform", (low, high - low)).pvalue > 0.01


def test_area_and_aspect_are_independent(boxes: np.ndarray) -> None:
    assert stats.spearmanr(boxes[:, 2] * boxes[:, 3], boxes[:, 3] / boxes[:, 2]).pvalue > 0.01


@pytest.mark.parametrize("axis", [0, 1])
def test_the_position_is_uniform_among_those_within_the_view(boxes: np.ndarray, axis: int) -> None:
    free = SIZE - boxes[:, 2 + axis]
    assert boxes[:, axis].min() >= 0
    assert (boxes[:, axis] <= free).all()
    assert stats.kstest((boxes[:, axis] + 0.5) / (free + 1), "uniform").pvalue > 0.01


def test_every_position_of_a_small_view_is_equally_likely() -> None:
    config = cutout.Config(area=(0.25, 0.25), ratio=(1.0, 1.0))
    rng = np.random.default_rng(0)
    boxes = np.stack([cutout.draw(config, 8, rng)["box"] for _ in range(2500)])
    assert (boxes[:, 2:] == 4).all()
    counts = np.bincount(boxes[:, 0] * 5 + boxes[:, 1], minlength=25)
    assert len(counts) == 25
    assert stats.chisquare(counts).pvalue > 0.01


def test_the_probability_is_kept() -> None:
    rng = np.random.default_rng(0)
    config = cutout.Config(probability=0.3)
    drawn = [cutout.draw(config, 32, rng)["box"].any() for _ in range(2000)]
    assert stats.binomtest(sum(drawn), 2000, 0.3).pvalue > 0.01


def test_exactly_the_box_is_filled_with_the_imagenet_mean() -> None:
    images = torch.rand(3, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    box = np.array([[1, 2, 3, 2], [0, 0, 0, 0], [0, 0, 6, 5]])
    got = cutout.apply(images.clone(), {"box": box}, cutout.Config())
    expected = images.clone()
    for channel, value in enumerate((0.485, 0.456, 0.406)):
        expected[0, channel, 1:4, 2:4] = value
        expected[2, channel] = value
    assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("values", "printed"),
    [
        ({"area": (0.4, 0.2)}, "area"),
        ({"area": (0.2, 0.8)}, "larger"),
        ({"ratio": (0.2, 1.0)}, "larger"),
    ],
)
def test_impossible_options_name_the_field(values: dict[str, tuple[float, ...]], printed: str) -> None:
    with pytest.raises(ValueError, match=printed):
        cutout.Config(**values)  # type: ignore[arg-type]
