"""Objectives: the distance D between a prediction and a target, one function each; they expect fp32 or better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from core.distributed import gather_rows


@dataclass(frozen=True)
class ObjectiveConfig:
    name: Literal["byol", "simsiam", "mocov3"] = "byol"
    """Distance between prediction and target."""
    temperature: float = 1.0
    """τ of MoCo v3's InfoNCE; unused by the others."""

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")


def byol(prediction: Tensor, target: Tensor) -> Tensor:
    """2 − 2·cos, averaged over the batch: [B, D], [B, D] -> scalar. BYOL, arXiv 2006.07733, equation 2."""
    return 2 - 2 * F.cosine_similarity(prediction, target, dim=1).mean()


def simsiam(prediction: Tensor, target: Tensor) -> Tensor:
    """−cos, averaged over the batch: [B, D], [B, D] -> scalar. SimSiam, arXiv 2011.10566, equation 1."""
    return -F.cosine_similarity(prediction, target, dim=1).mean()


def mocov3(prediction: Tensor, gathered: Tensor, temperature: float, rank: int = 0) -> Tensor:
    """InfoNCE times 2τ. MoCo v3, arXiv 2104.02057, equation 1 and algorithm 1.

    `prediction` [B, D] of this rank, `gathered` [W·B, D]: the targets of all ranks in rank order, of which this
    rank's own start at row rank·B. Vectors are L2-normalised here.
    """
    prediction, gathered = F.normalize(prediction, dim=1), F.normalize(gathered, dim=1)
    logits = prediction @ gathered.T / temperature
    own = torch.arange(len(prediction), device=logits.device) + rank * len(prediction)
    return 2 * temperature * F.cross_entropy(logits, own)


def prepare_target(config: ObjectiveConfig, target: Tensor) -> Tensor:
    """Targets to compare with, without gradient: those of all ranks for MoCo v3, of this rank otherwise."""
    return gather_rows(target) if config.name == "mocov3" else target.detach()


def distance(config: ObjectiveConfig, prediction: Tensor, target: Tensor, rank: int) -> Tensor:
    """D of the configured objective; `target` comes from `prepare_target`."""
    if config.name == "byol":
        return byol(prediction, target)
    if config.name == "simsiam":
        return simsiam(prediction, target)
    return mocov3(prediction, target, config.temperature, rank)
