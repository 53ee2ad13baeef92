"""Shuffle: the patches of a grid in random order (as in the jigsaw task of Noroozi & Favaro, arXiv 1603.09246)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Config:
    """Options of shuffle."""

    grid: int = 2
    """Patches per side; must divide the view's size."""

    def __post_init__(self) -> None:
        if self.grid < 2:
            raise ValueError(f"grid must be 2 or more, not {self.grid}")


def draw(config: Config, size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """`source`: int64 [grid²], for each place (row by row) the patch that goes there; a uniform permutation."""
    if size % config.grid:
        raise ValueError(f"shuffle's grid {config.grid} must divide the view's size {size}")
    return {"source": rng.permutation(config.grid**2)}


def apply(images: torch.Tensor, parameters: Mapping[str, np.ndarray], config: Config) -> torch.Tensor:
    """Puts patch `source[b, i]` of sample b at place i."""
    batch, channels, height, width = images.shape
    grid, source = config.grid, parameters["source"]
    flat = torch.from_numpy((source + np.arange(batch)[:, None] * grid**2).ravel()).to(images.device, non_blocking=True)
    cells = images.reshape(batch, channels, grid, height // grid, grid, width // grid).permute(0, 2, 4, 1, 3, 5)
    moved = cells.flatten(0, 2).index_select(0, flat).view(cells.shape)
    return moved.permute(0, 3, 1, 4, 2, 5).reshape(images.shape)
