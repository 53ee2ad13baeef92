"""Prototypes: DINO's head, sharpened and centred targets, and their measures of health (arXiv 2104.14294)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.distributed import sum_over_ranks
from pretrain.losses.base import full

COLLAPSED = 0.02
"""Information in nats below which the targets of different images count as equal; fresh networks and healthy runs lie
above 0.3, a small ResNet that collapsed came to 0.02 within 100 steps."""


@dataclass(frozen=True)
class PrototypeHeadConfig:
    """Head with prototypes; the defaults are DINO's."""

    hidden: int = 2048
    """Width of the hidden layers."""
    layers: int = 3
    """Linear layers before the prototypes."""
    hidden_norm: bool = False
    """BatchNorm after each hidden layer, over all rows of a pass: `use_bn_in_head` of DINO's code.

    It spreads the outputs of a fresh backbone, which are nearly equal for all images."""
    bottleneck: int = 256
    """Width of the L2-normalised vector that is compared with the prototypes."""
    prototypes: int = 65536
    """Number K of prototypes."""
    trained_scale: bool = False
    """Train a scale for each prototype instead of leaving all at unit length."""

    def __post_init__(self) -> None:
        if min(self.hidden, self.layers, self.bottleneck) < 1 or self.prototypes < 2:
            raise ValueError("hidden, layers and bottleneck must be at least 1, prototypes at least 2")


@dataclass(frozen=True)
class TeacherConfig:
    """Sharpening and centring of the targets; the defaults are DINO's."""

    temperature: float = 0.04
    """τ of the targets after the warm-up."""
    warmup_temperature: float = 0.04
    """τ of the targets in the first epoch."""
    warmup_epochs: int = 0
    """Epochs over which τ changes linearly, once per epoch."""
    centre_momentum: float = 0.9
    """Share of the old centre that each step keeps."""

    def __post_init__(self) -> None:
        if min(self.temperature, self.warmup_temperature) <= 0 or self.warmup_epochs < 0:
            raise ValueError("temperatures must be positive, and warmup_epochs must not be negative")
        if not 0 <= self.centre_momentum <= 1:
            raise ValueError(f"centre_momentum must lie between 0 and 1, not {self.centre_momentum}")

    def temperature_at(self, epoch: float) -> float:
        """τ in an epoch: `warmup_epochs` values from the first to the last temperature, evenly spaced."""
        if epoch >= self.warmup_epochs:
            return self.temperature
        share = int(epoch) / max(1, self.warmup_epochs - 1)
        return self.warmup_temperature + share * (self.temperature - self.warmup_temperature)


class Prototypes(nn.Module):
    """Similarity of unit vectors to K prototypes of unit length, or of a trained length: [R, …, d] -> [R, …, K]."""

    def __init__(self, width: int, count: int, trained_scale: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, width))
        self.scale = nn.Parameter(torch.ones(count)) if trained_scale else None

    def forward(self, vectors: Tensor) -> Tensor:
        logits = F.linear(vectors, F.normalize(self.weight, dim=1))
        return logits if self.scale is None else logits * self.scale


class PrototypeHead(nn.Module):
    """MLP with GELU, with BatchNorm or without norms, L2-normalised, then prototypes: [R, …, D] -> [R, …, K].

    With unit prototypes the logits are cosines. Linear layers start from a truncated normal of deviation 0.02.
    """

    def __init__(self, width: int, config: PrototypeHeadConfig) -> None:
        super().__init__()
        widths = [width] + [config.hidden] * (config.layers - 1) + [config.bottleneck]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths[:-1]):
            norm = [nn.BatchNorm1d(after)] if config.hidden_norm else []
            layers += [nn.Linear(before, after), *norm, nn.GELU()]
        self.mlp = nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
        self.hidden_norm = config.hidden_norm
        initialise(self.mlp)
        self.prototypes = Prototypes(config.bottleneck, config.prototypes, config.trained_scale)

    def forward(self, vectors: Tensor) -> Tensor:
        rows = vectors.flatten(0, -2) if self.hidden_norm else vectors
        outputs = self.prototypes(F.normalize(self.mlp(rows), dim=-1, eps=1e-6))
        return outputs.view(*vectors.shape[:-1], -1)


def initialise(module: nn.Module) -> None:
    """Linear layers: weights from a truncated normal of deviation 0.02, biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / τ) in fp32 or better, over the last axis."""
    return F.log_softmax(full(logits) / temperature, dim=-1)


def target_probabilities(logits: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """softmax((logits − centre) / τ) over the last axis."""
    return F.softmax((logits - centre) / temperature, dim=-1)


def cross_entropy(target: Tensor, log_p: Tensor) -> Tensor:
    """−Σ q · log p over the last axis: [R, …, K], [R, …, K] -> [R, …]."""
    return -(target * log_p).sum(-1)


def moved_centre(centre: Tensor, logits: Sequence[Tensor], momentum: float) -> Tensor:
    """momentum · centre + (1 − momentum) · mean of the logits [R, …, K] over all rows of all ranks: [K]."""
    rows = sum(values.numel() // values.shape[-1] for values in logits)
    total = torch.stack([values.flatten(0, -2).sum(0) for values in logits]).sum(0)
    count = torch.full((1,), float(rows), device=total.device, dtype=total.dtype)
    summed = sum_over_ranks(torch.cat([total, count]))
    return momentum * centre + (1 - momentum) * summed[:-1] / summed[-1]


def measures(target: Tensor) -> dict[str, Tensor]:
    """Health of targets q [R, K] of different images.

    `entropy`: mean entropy of q as a share of ln K. 1: uniform targets. `information`: mean KL of q from the mean
    target, in nats; 0 where all images have the same target, whether it is uniform or a single prototype.
    """
    mean = target.mean(0)
    own = -torch.special.xlogy(target, target).sum(-1).mean()
    information = -torch.special.xlogy(mean, mean).sum() - own
    return {"entropy": own / math.log(target.shape[-1]), "information": information.clamp(min=0)}


def collapse(values: Mapping[str, float]) -> str:
    """Reason why `measures` mean a collapse; empty for a healthy run."""
    if values["information"] >= COLLAPSED:
        return ""
    return (
        f"different images have the same target (information {values['information']:.2g} nats, entropy "
        f"{values['entropy']:.2f} of its largest value)"
    )


@dataclass(frozen=True)
class ImageConfig:
    """Options that all losses with prototypes share."""

    head: PrototypeHeadConfig = field(default_factory=PrototypeHeadConfig)
    """Head of the image vector."""
    student_temperature: float = 0.1
    """τ of the online network's probabilities."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """Sharpening and centring of the image targets."""

    def __post_init__(self) -> None:
        if self.student_temperature <= 0:
            raise ValueError(f"student_temperature must be positive, not {self.student_temperature}")
