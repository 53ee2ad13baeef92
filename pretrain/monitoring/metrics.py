"""Metrics of training: collected on the device at each step, read back and shared among ranks at log steps only."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.data.broken import BrokenImages
from core.distributed import Processes, gather_objects
from core.errors import UserError
from pretrain.config import PretrainConfig
from pretrain.losses.base import Objective


class CollapseWatch:
    """Warns once per collapse."""

    def __init__(self, config: PretrainConfig, objective: Objective) -> None:
        self._objective = objective
        keys = ["lower optim.lr", "lengthen schedule.warmup_epochs"]
        if config.target.kind == "ema":
            keys.append(f"raise target.momentum ({config.target.momentum:g})")
        if "projector" in objective.USES and not config.projector.output_norm:
            keys.append("set projector.output_norm=true")
        self._keys = ", ".join(keys[:-1]) + f" or {keys[-1]}"
        self._warned = False

    def warning(self, step: int, values: Mapping[str, float]) -> str:
        """Warning about the health `values` after `step` steps; empty without a new collapse."""
        reason = self._objective.collapse(values)
        warned, self._warned = self._warned, bool(reason)
        if warned or not reason:
            return ""
        return (
            f"collapsed at step {step}: {reason}, so nothing more is learned; {self._keys}, and start from an earlier "
            f"state"
        )


@dataclass(frozen=True)
class Report:
    """Metrics of the last log interval, equal on all ranks."""

    values: dict[str, float]
    """Since the last log step: mean of each term of the loss and of their sum, the largest sum of a step (`loss_max`)
    and the largest norm of the gradients of a step that was not skipped (`gradient_norm_max`; left out where all were),
    images per second over all ranks (without the time of checkpoints and monitor), in fp16 the steps skipped, with
    decode=device the images decoded either way. Of the last step: the norm of the gradients, the health of the losses,
    e.g. `spread`. Of the whole run: the number of broken images. Losses, norms and health are means over the ranks,
    `loss_max` the largest of these means."""
    stop: bool
    """True if any rank was asked to stop."""
    checkpoint_due: bool
    """True if a timed checkpoint is due on rank 0."""
    broken: list[str]
    """Broken images not reported before."""
    overflowing: int
    """Steps in a row, up to this one, that were skipped as their gradients overflowed in fp16; 0 where they are few or
    were reported before."""


_FEW = 10
"""Skipped steps in a row in which the loss scaler may be finding its scale."""
_HOPELESS = 40
"""Skipped steps in a row: as many halvings lead from the first loss scale, 2¹⁶, to fp16's smallest number, 2⁻²⁴."""


class StepMetrics:
    """Accumulates losses and names of broken images between two log steps."""

    def __init__(
        self, terms: Sequence[str], processes: Processes, broken: BrokenImages, batch: int, scaled: bool
    ) -> None:
        """`terms`: names of the terms of the loss; `batch`: images per step over all ranks.

        `scaled`: whether a loss scaler may skip updates.
        """
        self._terms, self._processes, self._broken, self._batch = terms, processes, broken, batch
        self._sums = torch.zeros(len(terms), device=processes.device)
        self._each: list[Tensor] = []
        self._norm, self._norm_max = torch.zeros(2, device=processes.device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=processes.device)
        self._names: list[str] = []
        self._counts: Counter[str] = Counter()
        self._scaled, self._updated, self._skipped = scaled, False, 0
        self._in_a_row, self._warned = 0, False
        self._steps, self._since = 0, time.monotonic()

    def note_update(self, *_: object) -> None:
        """Hook of the optimiser, called for every step that was not skipped."""
        self._updated = True

    def add(
        self,
        step: int,
        losses: Mapping[str, Tensor],
        norm: Tensor,
        broken: Sequence[str],
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """Adds the losses of step `step` without waiting for the device.

        `norm`: that of all gradients, the same on all ranks. `counts`: numbers to be summed over steps and ranks.
        """
        values = torch.stack([losses[name] for name in self._terms])
        bad = ~torch.isfinite(values).all() & (self._first_bad < 0)
        self._first_bad = torch.where(bad, step, self._first_bad)
        self._sums += values
        self._each.append(values)
        self._norm = norm
        if self._updated or not self._scaled:  # a skipped step's norm is not finite
            self._norm_max = torch.maximum(self._norm_max, norm)
        self._names += broken
        self._counts.update(counts or {})
        self._steps += 1
        if self._scaled:
            self._skipped += not self._updated
            self._in_a_row = 0 if self._updated else self._in_a_row + 1
            self._updated = False

    def report(self, stop: bool, checkpoint_due: bool, health: Mapping[str, Tensor]) -> Report:
        """Report of the interval, which ends here; every rank calls it at the same step. `health`: scalars by name.

        Raises `UserError` on all ranks alike for a loss that was not finite, for too many broken images and where fp16
        overflows whatever the loss is scaled by.
        """
        scalars = {**health, "gradient_norm": self._norm, "gradient_norm_max": self._norm_max}
        own = torch.stack([self._first_bad.float(), *(value.float() for value in scalars.values())])
        first_bad, *row = torch.cat([own, self._sums / self._steps, *self._each]).tolist()
        means_end = len(scalars) + len(self._terms)
        row[means_end:] = [sum(row[i : i + len(self._terms)]) for i in range(means_end, len(row), len(self._terms))]
        mine = (row, int(first_bad), self._names, stop, checkpoint_due, self._counts)
        everyone = gather_objects(mine)
        bad_steps = [bad for _, bad, *_ in everyone if bad >= 0]
        if bad_steps:
            raise UserError(
                f"the loss is not finite since step {min(bad_steps) + 1}; the last checkpoint is intact: "
                f"resume from it with a lower optim.lr, with optim.clip or with compute.precision=fp32"
            )
        if self._in_a_row >= _HOPELESS:  # the same on all ranks, whose gradients are averaged first
            raise UserError(
                f"the last {self._in_a_row} steps were skipped, as their gradients overflow in fp16 however the loss "
                f"is scaled; the last checkpoint is intact: resume from it with compute.precision=bf16 or fp32"
            )
        broken = self._broken.add([name for _, _, names, *_ in everyone for name in names])
        columns = [sum(column) / len(everyone) for column in zip(*(row for row, *_ in everyone), strict=True)]
        averages = columns[len(scalars) : means_end]
        values = {"loss": sum(averages), "loss_max": max(columns[means_end:])}
        if len(self._terms) > 1:
            values |= {f"loss/{name}": average for name, average in zip(self._terms, averages, strict=True)}
        values |= dict(zip(scalars, columns[: len(scalars)], strict=True))
        if self._skipped == self._steps:
            del values["gradient_norm_max"]
        if self._scaled:
            values["skipped_steps"] = self._skipped
        counted: Counter[str] = Counter()
        for *_, counts in everyone:
            counted.update(counts)
        values |= counted
        values["broken_images"] = len(self._broken.names)
        values["images_per_second"] = self._steps * self._batch / max(time.monotonic() - self._since, 1e-9)
        self._sums.zero_()
        self._norm_max.zero_()
        self._each, self._names, self._counts, self._steps, self._skipped = [], [], Counter(), 0, 0
        warned, self._warned = self._warned, self._in_a_row >= _FEW
        overflowing = self._in_a_row if self._warned and not warned else 0
        self.restart_clock()
        return Report(values, any(row[3] for row in everyone), everyone[0][4], broken, overflowing)

    def restart_clock(self) -> None:
        """Starts the next interval now, so that time since the last report does not count as training."""
        self._since = time.monotonic()
