"""core/schedules.py against hand-computed values."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from core.schedules import ScheduleConfig, learning_rate_factor, momentum


def test_cosine_after_linear_warm_up() -> None:
    config = ScheduleConfig(warmup_epochs=2, end=0.001)
    factors = [learning_rate_factor(config, step, 5, 12) for step in range(60)]
    assert factors[:3] == [0, 0.1, 0.2]
    assert factors[10] == 1  # the first step after 2 epochs of 5
    # halfway between step 10 and 60: cosine 1/2, plus half of the floor
    assert factors[35] == pytest.approx(0.5 + 0.001 * 0.5)
    last = 0.5 * (1 + math.cos(math.pi * 49 / 50))
    assert factors[59] == pytest.approx(last + 0.001 * (1 - last))
    assert all(before > after for before, after in pairwise(factors[10:]))


def test_per_epoch_schedule_changes_between_epochs_only() -> None:
    config = ScheduleConfig(warmup_epochs=0, end=0.001, granularity="epoch")
    factors = [learning_rate_factor(config, step, 4, 2) for step in range(8)]
    assert factors == [1] * 4 + [pytest.approx(0.5 + 0.0005)] * 4


def test_momentum_rises_to_one() -> None:
    assert momentum(0.996, 0, 100) == pytest.approx(0.996)
    assert momentum(0.996, 50, 100) == pytest.approx(0.998)
    assert momentum(0.996, 25, 100) == pytest.approx(1 - 0.004 * (math.cos(math.pi / 4) + 1) / 2)
    assert momentum(0.996, 100, 100) == 1


@pytest.mark.parametrize("values", [{"warmup_epochs": -1}, {"end": 1.5}])
def test_impossible_schedules(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        ScheduleConfig(**values)


@pytest.mark.parametrize("warmup", [0.5, 1, 2, 3.5])
def test_per_epoch_warm_up_trains_no_epoch_at_rate_0(warmup: float) -> None:
    config = ScheduleConfig(warmup_epochs=warmup, granularity="epoch")
    factors = [learning_rate_factor(config, epoch * 4, 4, 6) for epoch in range(6)]
    rising = math.ceil(warmup)
    assert factors[:rising] == [min(1.0, (epoch + 1) / warmup) for epoch in range(rising)]
    assert factors[rising] == pytest.approx(
        0.999 * 0.5 * (1 + math.cos(math.pi * (rising - warmup) / (6 - warmup))) + 0.001
    )
    assert min(factors) > 0
