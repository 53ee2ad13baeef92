"""Metrics of training: collected on the device at each step, read back and shared among ranks at log steps only."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.broken import BrokenImages
from core.distributed import Processes, gather_objects
from core.errors import UserError
from pretrain.config import PretrainConfig

COLLAPSED = 0.02
"""Spread below which the projections count as equal; fresh networks and healthy runs lie above 0.1."""


@torch.no_grad()
def spread(projections: Tensor) -> Tensor:
    """Standard deviation of L2-normalised projections [B, D] over the batch, mean over channels, times √D: a scalar.

    0 where all are equal, about 1 where they lie evenly on the sphere. SimSiam, arXiv 2011.10566, section 4.1.
    """
    return F.normalize(projections, dim=1).std(0, correction=0).mean() * projections.shape[1] ** 0.5


class CollapseWatch:
    """Warns once per collapse."""

    def __init__(self, config: PretrainConfig) -> None:
        keys = ["lower optim.lr", "lengthen schedule.warmup_epochs"]
        if config.target.kind == "ema":
            keys.append(f"raise target.momentum ({config.target.momentum:g})")
        if not config.projector.output_norm:
            keys.append("set projector.output_norm=true")
        self._keys = ", ".join(keys[:-1]) + f" or {keys[-1]}"
        self._warned = False

    def warning(self, step: int, value: float) -> str:
        """Warning about the spread `value` after `step` steps; empty without a new collapse."""
        warned, self._warned = self._warned, value < COLLAPSED
        if warned or not self._warned:
            return ""
        return (
            f"collapsed at step {step}: different images have nearly the same projection (spread {value:.2g}, where 1 "
            f"is even and 0 constant), so nothing more is learned; {self._keys}, and start from an earlier state"
        )


@dataclass(frozen=True)
class Report:
    """Metrics of the last log interval, equal on all ranks."""

    values: dict[str, float]
    """Since the last log step: mean loss per view type and in total, images per second over all ranks (without the time
    of checkpoints and monitor), in fp16 the steps skipped. Of the last step: `spread` of the projections. Of the
    whole run: the number of broken images."""
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
        self, types: Sequence[str], processes: Processes, broken: BrokenImages, batch: int, scaled: bool
    ) -> None:
        """`types`: view types, in the order of the loss dicts; `batch`: images per step over all ranks.

        `scaled`: whether a loss scaler may skip updates.
        """
        self._types, self._processes, self._broken, self._batch = types, processes, broken, batch
        self._sums = torch.zeros(len(types), device=processes.device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=processes.device)
        self._names: list[str] = []
        self._scaled, self._updated, self._skipped = scaled, False, 0
        self._in_a_row, self._warned = 0, False
        self._steps, self._since = 0, time.monotonic()

    def note_update(self, *_: object) -> None:
        """Hook of the optimiser, called for every step that was not skipped."""
        self._updated = True

    def add(self, step: int, losses: Mapping[str, Tensor], broken: Sequence[str]) -> None:
        """Adds the losses of step `step` without waiting for the device."""
        values = torch.stack([losses[name] for name in self._types])
        bad = ~torch.isfinite(values).all() & (self._first_bad < 0)
        self._first_bad = torch.where(bad, step, self._first_bad)
        self._sums += values
        self._names += broken
        self._steps += 1
        if self._scaled:
            self._skipped += not self._updated
            self._in_a_row = 0 if self._updated else self._in_a_row + 1
            self._updated = False

    def report(self, stop: bool, checkpoint_due: bool, spread: Tensor) -> Report:
        """Report of the interval, which ends here; every rank calls it at the same step. `spread`: scalar of this rank.

        Raises `UserError` on all ranks alike for a loss that was not finite, for too many broken images and where fp16
        overflows whatever the loss is scaled by.
        """
        *means, first_bad, own_spread = torch.cat(
            [self._sums / self._steps, self._first_bad[None].float(), spread[None].float()]
        ).tolist()
        mine = ([*means, own_spread], int(first_bad), self._names, stop, checkpoint_due)
        everyone = gather_objects(mine)
        bad_steps = [bad for _, bad, _, _, _ in everyone if bad >= 0]
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
        broken = self._broken.add([name for _, _, names, _, _ in everyone for name in names])
        *averages, spread_of_all = [
            sum(column) / len(everyone) for column in zip(*(row for row, *_ in everyone), strict=True)
        ]
        values = {"loss": sum(averages)}
        if len(self._types) > 1:
            values |= {f"loss/{name}": average for name, average in zip(self._types, averages, strict=True)}
        values["spread"] = spread_of_all
        if spread_of_all < COLLAPSED:
            values["collapsed"] = True
        if self._scaled:
            values["skipped_steps"] = self._skipped
        values["broken_images"] = len(self._broken.names)
        values["images_per_second"] = self._steps * self._batch / max(time.monotonic() - self._since, 1e-9)
        self._sums.zero_()
        self._names, self._steps, self._skipped = [], 0, 0
        warned, self._warned = self._warned, self._in_a_row >= _FEW
        overflowing = self._in_a_row if self._warned and not warned else 0
        self.restart_clock()
        return Report(values, any(row[3] for row in everyone), everyone[0][4], broken, overflowing)

    def restart_clock(self) -> None:
        """Starts the next interval now, so that time since the last report does not count as training."""
        self._since = time.monotonic()
