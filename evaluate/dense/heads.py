"""Linear heads on maps: several at once that differ in learning rate and weight decay, and their training loop."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from core.compute.sync_norm import synchronise_norms
from core.config import check_at_least_one
from core.distributed import average_gradients
from evaluate.common.context import RunContext
from evaluate.common.resumable import ProbeState, copy_exactly

STATES = 5
"""Times that an uninterrupted training saves its state."""


@dataclass(frozen=True)
class SweepConfig:
    lrs: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    """Peak learning rates; one head for each pair of a rate and a weight decay."""
    weight_decays: tuple[float, ...] = (1e-4, 1e-3)
    """Weight decays of AdamW."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Betas of AdamW."""
    clip: float | None = None
    """Largest norm of each head's gradient; null: not clipped."""
    batch: int = 16
    """Global batch, over all processes."""
    iterations: int = 40_000
    """Optimiser steps."""
    warmup: int = 1500
    """Steps of linear warm-up."""
    warmup_start: float = 1e-6
    """Share of the peak at which the warm-up starts."""
    decay: Literal["cosine", "linear"] = "cosine"
    """Decay of the learning rate after its peak."""
    decay_from: Literal["warmup", "start"] = "warmup"
    """`warmup`: the decay begins at the end of the warm-up; `start`: it covers all steps and multiplies the warm-up."""
    end: float = 0.0
    """Share of the peak at the end of the decay."""
    batch_norm: bool = True
    """Batch norm with scale and shift in front of each head, statistics of the global batch."""
    dropout: float = 0.1
    """Share of channels dropped per image while training (dropout2d)."""

    def __post_init__(self) -> None:
        for key in ("lrs", "weight_decays"):
            values = getattr(self, key)
            if not values or len(set(values)) < len(values) or not all(0 <= value < math.inf for value in values):
                raise ValueError(f"{key} must be different numbers of at least 0, at least one, not {list(values)}")
        if min(self.lrs) <= 0:
            raise ValueError(f"lrs must be positive, not {list(self.lrs)}")
        check_at_least_one(self, "batch", "iterations")
        if not 0 <= self.warmup < self.iterations:
            raise ValueError(f"warmup must be 0 … iterations ({self.iterations}), not {self.warmup}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be 0 … 1, not {self.dropout}")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip must be positive or null, not {self.clip}")
        if not 0 <= self.end <= 1:
            raise ValueError(f"end must be 0 … 1, not {self.end}")

    def heads(self) -> list[dict[str, float]]:
        """Learning rate and weight decay of each head."""
        return [{"lr": lr, "weight_decay": decay} for lr in self.lrs for decay in self.weight_decays]

    def factor(self, step: int) -> float:
        """Share of the peak learning rate at `step`, from 0."""
        ramp = 1.0
        if step < self.warmup:
            ramp = self.warmup_start + (1 - self.warmup_start) * step / self.warmup
            if self.decay_from == "warmup":
                return ramp
        first = self.warmup if self.decay_from == "warmup" else 0
        share = (step - first) / (self.iterations - first)
        left = 0.5 * (1 + math.cos(math.pi * share)) if self.decay == "cosine" else 1 - share
        return ramp * (left + self.end * (1 - left))

    def __str__(self) -> str:
        rates, decays = ([f"{value:g}" for value in values] for values in (self.lrs, self.weight_decays))
        return (
            f"{len(self.heads())} at once: AdamW, learning rates {', '.join(rates)} × weight decays "
            f"{', '.join(decays)}; {self.iterations:,} steps of {self.batch} images"
        )


class PixelHeads(nn.Module):
    """Heads of one 1×1 convolution each, behind one batch norm's statistics with a scale and shift per head.

    They start equal: weights from N(0, 0.01²) drawn from the seed, biases 0.
    """

    def __init__(self, channels: int, outputs: int, config: SweepConfig, seed: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False) if config.batch_norm else None
        generator = torch.Generator().manual_seed(seed)
        start = 0.01 * torch.randn(outputs, channels, generator=generator)
        heads = range(len(config.heads()))
        self.weights = nn.ParameterList([nn.Parameter(start.clone()) for _ in heads])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(outputs)) for _ in heads])
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(channels)) for _ in heads if config.batch_norm])
        self.shifts = nn.ParameterList([nn.Parameter(torch.zeros(channels)) for _ in heads if config.batch_norm])

    def groups(self) -> list[list[nn.Parameter]]:
        """Parameters of each head."""
        lists = [self.weights, self.biases, self.scales, self.shifts]
        return [[parameters[head] for parameters in lists if len(parameters)] for head in range(len(self.weights))]

    def forward(self, maps: Tensor) -> Tensor:
        """[B, C, h, w] -> [heads, B, outputs, h, w]."""
        if self.norm is not None:
            maps = self.norm(maps)
        weight = torch.stack(list(self.weights))
        bias = torch.stack(list(self.biases))
        if len(self.scales):
            bias = bias + torch.einsum("hoc,hc->ho", weight, torch.stack(list(self.shifts)))
            weight = weight * torch.stack(list(self.scales))[:, None]
        heads, outputs, channels = weight.shape
        flat = nn.functional.conv2d(maps, weight.reshape(-1, channels, 1, 1), bias.reshape(-1))
        return flat.unflatten(1, (heads, outputs)).transpose(0, 1)


Batch = tuple[Tensor, Any]
"""This rank's part of a global batch: maps [b, C, h, w] on the device, and what the loss needs."""


def train_heads(
    heads: PixelHeads,
    config: SweepConfig,
    open_batches: Callable[[int], Iterator[Batch]],
    losses: Callable[[Tensor, Any, int], Tensor],
    context: RunContext,
    state: ProbeState,
) -> None:
    """Trains all heads to the last step, resuming from `state`.

    `open_batches`: (step) -> batches from there on. `losses`: (outputs [heads, b, o, h, w], target, step) -> loss of
    each head [heads], whose mean over ranks is that of the global batch. Raises `UserError` for a state that doesn't
    fit.
    """
    trained = synchronise_norms(heads, context.device) if context.processes.world_size > 1 else heads
    optimiser = torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": head["weight_decay"], "peak": head["lr"]}
            for parameters, head in zip(heads.groups(), config.heads(), strict=True)
        ],
        lr=1.0, betas=config.betas,
    )  # fmt: skip
    done = _restore(heads, optimiser, config, state, context)
    every = max(50, config.iterations // STATES)
    trained.train()
    bar = tqdm(
        total=config.iterations, initial=done, desc=f"{len(heads.weights)} heads", unit="step", leave=False,
        disable=not context.is_main, mininterval=0.2 if sys.stderr.isatty() else 10.0,
    )  # fmt: skip
    with bar:
        batches = open_batches(done) if done < config.iterations else iter(())
        while done < config.iterations:
            maps, target = next(batches)
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * config.factor(done)
            optimiser.zero_grad(set_to_none=True)
            found = losses(trained(_dropped(maps, config, done, context)), target, done)
            found.sum().backward()
            average_gradients(heads.parameters())
            if config.clip is not None:
                for parameters in heads.groups():
                    nn.utils.clip_grad_norm_(parameters, config.clip)
            optimiser.step()
            done += 1
            bar.update()
            if done % every == 0 and done < config.iterations:
                state.save({"step": done, "heads": heads.state_dict(), "optimiser": optimiser.state_dict()["state"]})
    heads.eval()


def _dropped(maps: Tensor, config: SweepConfig, step: int, context: RunContext) -> Tensor:
    """Dropout of whole channels; the mask of the global batch depends on seed and step alone."""
    if not config.dropout:
        return maps
    generator = torch.Generator().manual_seed(context.seed * 1_000_003 + step)
    kept = torch.rand(config.batch, maps.shape[1], generator=generator) >= config.dropout
    own = kept.chunk(context.processes.world_size)[context.processes.rank].to(maps.device)
    return maps * (own.to(maps.dtype) / (1 - config.dropout))[:, :, None, None]


def _restore(
    heads: PixelHeads, optimiser: torch.optim.AdamW, config: SweepConfig, state: ProbeState, context: RunContext
) -> int:
    saved = state.load()
    if saved is None:
        return 0
    with state.restoring():
        step = saved["step"]
        if not isinstance(step, int) or not 0 < step < config.iterations:
            raise ValueError(f"step {step}")
        with torch.no_grad():
            for name, own in heads.state_dict().items():
                copy_exactly(own, saved["heads"][name], name)
        optimiser.load_state_dict({**optimiser.state_dict(), "state": saved["optimiser"]})
    if context.is_main:
        print(f"resuming after step {step} of {config.iterations}")
    return step
