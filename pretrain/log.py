"""What a step leaves to be reported: kept on the device, read back and shared among ranks at log steps only."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.data.broken import BrokenImages
from core.distributed import Processes, gather_objects
from core.errors import UserError


@dataclass(frozen=True)
class Report:
    """What all ranks know alike after a log step."""

    values: dict[str, float]
    """Mean loss per view type and in total since the last log step, and images per second over all ranks."""
    stop: bool
    """Whether some rank was asked to stop."""
    due: bool
    """Whether rank 0 finds a timed checkpoint due."""
    broken: list[str]
    """Broken images not reported before."""


class StepLog:
    """Accumulates losses and names of broken images between two log steps."""

    def __init__(self, types: Sequence[str], processes: Processes, broken: BrokenImages, batch: int) -> None:
        """`types`: view types, in the order of the loss dicts; `batch`: images per step over all ranks."""
        self._types, self._processes, self._broken, self._batch = types, processes, broken, batch
        self._sums = torch.zeros(len(types), device=processes.device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=processes.device)
        self._names: list[str] = []
        self._steps, self._since = 0, time.monotonic()

    def add(self, step: int, losses: Mapping[str, Tensor], broken: Sequence[str]) -> None:
        """Notes step `step` without waiting for the device."""
        values = torch.stack([losses[name] for name in self._types])
        bad = ~torch.isfinite(values).all() & (self._first_bad < 0)
        self._first_bad = torch.where(bad, step, self._first_bad)
        self._sums += values
        self._names += broken
        self._steps += 1

    def report(self, stop: bool, due: bool) -> Report:
        """Closes the interval; every rank calls it at the same step.

        Raises `UserError` on all ranks alike for a loss that was not finite and for too many broken images.
        """
        *means, first_bad = torch.cat([self._sums / self._steps, self._first_bad[None].float()]).tolist()
        mine = (means, int(first_bad), self._names, stop, due)
        everyone = gather_objects(mine)
        bad_steps = [bad for _, bad, _, _, _ in everyone if bad >= 0]
        if bad_steps:
            raise UserError(
                f"the loss is not finite since step {min(bad_steps) + 1}; the last checkpoint is intact: "
                f"resume from it with a lower optim.lr, with optim.clip or with compute.precision=fp32"
            )
        broken = self._broken.add([name for _, _, names, _, _ in everyone for name in names])
        averages = [sum(column) / len(everyone) for column in zip(*(row for row, *_ in everyone), strict=True)]
        values = {"loss": sum(averages)}
        if len(self._types) > 1:
            values |= {f"loss/{name}": average for name, average in zip(self._types, averages, strict=True)}
        now = time.monotonic()
        values["images_per_second"] = self._steps * self._batch / max(now - self._since, 1e-9)
        self._sums.zero_()
        self._names, self._steps, self._since = [], 0, now
        return Report(values, any(row[3] for row in everyone), everyone[0][4], broken)
