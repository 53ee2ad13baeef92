"""Schedules: cosine learning rate with warm-up, and the target network's momentum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ScheduleConfig:
    warmup_epochs: float = 10.0
    """Epochs over which the learning rate rises linearly from 0. With `granularity: epoch` epoch e (from 0) of w trains
    at (e + 1) / w of the peak, the rate that the ramp reaches at its end: no epoch is trained at 0."""
    end: float = 0.001
    """Fraction of the peak at which the cosine ends."""
    granularity: Literal["step", "epoch"] = "step"
    """Unit in which the rate changes: every step, or once per epoch (SimSiam)."""

    def __post_init__(self) -> None:
        if self.warmup_epochs < 0:
            raise ValueError(f"warmup_epochs must not be negative, but is {self.warmup_epochs}")
        if not 0 <= self.end <= 1:
            raise ValueError(f"end must be a share between 0 and 1, not {self.end}")


def learning_rate_factor(config: ScheduleConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """Fraction of the peak learning rate at `step` (0-based): linear warm-up, then half a cosine down to `end`.

    BYOL, arXiv 2006.07733, section 3.3 (cosine without restarts after linear warm-up).
    """
    whole_epochs = config.granularity == "epoch"
    if whole_epochs:
        step, steps_per_epoch = step // steps_per_epoch, 1
    warmup, total = config.warmup_epochs * steps_per_epoch, epochs * steps_per_epoch
    if step < warmup:
        return min(1.0, (step + 1) / warmup) if whole_epochs else step / warmup
    cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
    return cosine + config.end * (1 - cosine)


def momentum(start: float, step: int, total_steps: int) -> float:
    """τ of the target network at `step`: from `start` to 1 along a cosine. BYOL, arXiv 2006.07733, section 3.3."""
    return 1 - (1 - start) * (math.cos(math.pi * step / total_steps) + 1) / 2
