"""Crop boxes of views, pairs of views that lie apart, and streams of random numbers of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pretrain.views.config import PhotometricConfig, ViewConfig
from pretrain.views.dataset import Views, draw_apart
from tests.pretrain.views.test_views import Noise

PLAIN = PhotometricConfig(blur_p=0.0)
GLOBAL = ViewConfig(count=2, size=32, photometric=(PLAIN,))
PART = ViewConfig(count=2, size=32, area=(0.05, 0.25), photometric=(PLAIN,), placement="apart")


def test_pairs_lie_apart_as_often_as_expected() -> None:
    rng = np.random.default_rng(0)
    overlaps = 0
    for _ in range(500):
        (x, y, w, h), (u, v, a, b) = draw_apart(96, 96, (0.05, 0.25), (3 / 4, 4 / 3), rng)
        overlaps += min(x + w, u + a) > max(x, u) and min(y + h, v + b) > max(y, v)
        assert max(x + w, u + a) <= 96
        assert max(y + h, v + b) <= 96
    assert overlaps / 500 < 0.05  # 2.2 % in 20,000 draws; a third where boxes are drawn one by one


def test_the_box_is_the_crop_and_a_pair_has_one_flip() -> None:
    images = Noise()
    for index in range(6):
        pair = Views(images, {"global": GLOBAL, "part": PART}, 0)[0, index].views["part"]
        assert pair[0].parameters["flip"] == pair[1].parameters["flip"]
        for view in pair:
            left, top, width, height = view.parameters["box"].astype(int).tolist()
            crop = torch.from_numpy(np.array(images.image(index)))[top : top + height, left : left + width]
            expected = torch.nn.functional.interpolate(
                crop.permute(2, 0, 1)[None], (32, 32), mode="bicubic", antialias=True
            )
            assert torch.equal(view.images, expected[0])


def test_views_with_a_stream_of_their_own_change_no_other_view() -> None:
    alone = Views(Noise(), {"global": GLOBAL}, 0)[1, 3].views["global"]
    draws = {"part": {"coin": lambda view, rng: {"side": rng.integers(100, size=3)}}}
    sample = Views(Noise(), {"part": PART, "global": GLOBAL}, 0, "torch", {"part"}, draws)[1, 3]
    for one, other in zip(alone, sample.views["global"], strict=True):
        assert torch.equal(one.images, other.images)
        assert all(np.array_equal(one.parameters[key], other.parameters[key]) for key in one.parameters)
    sides = [view.parameters["coin.side"] for view in sample.views["part"]]
    assert not np.array_equal(*sides)
    again = Views(Noise(), {"part": PART, "global": GLOBAL}, 0, "torch", {"part"}, draws)[1, 3]
    assert np.array_equal(again.views["part"][1].parameters["coin.side"], sides[1])


def test_only_pairs_can_lie_apart() -> None:
    with pytest.raises(ValueError, match="count"):
        replace(PART, count=3)
