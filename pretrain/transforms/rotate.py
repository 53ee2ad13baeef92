"""Rotate: each view turned by a multiple of 90° (as in the rotation task of Gidaris et al., arXiv 1803.07728)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from pretrain.views.masked_apply import masked_apply


@dataclass(frozen=True)
class Config:
    """Options of rotate."""

    turns: tuple[int, ...] = (0, 1, 2, 3)
    """The quarter turns, counter-clockwise, among which each sample's is drawn uniformly."""

    def __post_init__(self) -> None:
        if not self.turns or not set(self.turns) <= {0, 1, 2, 3}:
            raise ValueError(f"turns must be one or more of 0, 1, 2, 3, not {self.turns}")


def draw(config: Config, size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """`turns`: int64 scalar, quarter turns counter-clockwise."""
    return {"turns": np.array(config.turns[rng.integers(len(config.turns))])}


def apply(images: torch.Tensor, parameters: Mapping[str, np.ndarray], config: Config) -> torch.Tensor:
    """Turns each sample by its `turns` [B]."""
    for turns in (1, 2, 3):
        images = masked_apply(images, parameters["turns"] == turns, lambda some, k=turns: torch.rot90(some, k, (2, 3)))
    return images
