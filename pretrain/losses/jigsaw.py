"""Jigsaw: which permutation the tiles of an image are in, each tile passed alone.

Noroozi & Favaro, arXiv 1603.09246, as ScatSimCLR (arXiv 2108.13939) uses it: 3 × 3 tiles without gaps, resized to the
size of the view. The permutations are our own, chosen by Noroozi & Favaro's rule.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.losses.base import Auxiliary, Context, Parameters, Progress
from pretrain.views.config import ViewConfig

_CANDIDATES = 20_000


@dataclass(frozen=True)
class Config:
    """Options of jigsaw."""

    grid: int = 3
    """Tiles per side, 2 or 3; the views' size must be a multiple of it."""
    permutations: int = 35
    """Number of permutations to tell apart; the identity is the first."""
    seed: int = 0
    """Seed of their choice among the 9! of a 3 × 3 grid."""
    tile_width: int = 512
    """Width of the layer on each tile's vector."""
    hidden: int = 4096
    """Width of the layer on all tiles together."""
    dropout: float = 0.5
    """Dropout after both layers."""

    def __post_init__(self) -> None:
        if self.grid not in (2, 3):
            raise ValueError(f"grid must be 2 or 3, not {self.grid}")
        most = 24 if self.grid == 2 else 1000
        if not 2 <= self.permutations <= most:
            raise ValueError(f"permutations must lie in 2 … {most} for grid {self.grid}, not {self.permutations}")
        if min(self.tile_width, self.hidden) < 1 or not 0 <= self.dropout < 1 or self.seed < 0:
            raise ValueError("tile_width and hidden must be positive, dropout in [0, 1), seed not negative")


@lru_cache
def permutations(tiles: int, count: int, seed: int) -> np.ndarray:
    """`count` permutations of `tiles` that differ much, int64 [count, tiles]: the identity, then greedily those whose
    least Hamming distance to the chosen ones is largest (ties: the larger mean, then the earlier candidate).

    Candidates are all permutations of 4 tiles, 20,000 random ones of 9.
    """
    if tiles <= 4:
        candidates = np.array(list(itertools.permutations(range(tiles))))
    else:
        candidates = np.random.default_rng(seed).permuted(np.tile(np.arange(tiles), (_CANDIDATES, 1)), axis=1)
    chosen = [np.arange(tiles)]
    least, total = np.full(len(candidates), tiles), np.zeros(len(candidates))
    while len(chosen) < count:
        distance = (candidates != chosen[-1]).sum(1)
        least, total = np.minimum(least, distance), total + distance
        chosen.append(candidates[np.lexsort((-np.arange(len(candidates)), total, least))[-1]])
    return np.stack(chosen)


def draw(config: Config, view: ViewConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """`order`: int64 scalar, the number of the permutation that the tiles are in."""
    return {"order": np.array(rng.integers(config.permutations))}


def cells(images: Tensor, grid: int) -> Tensor:
    """Cells of images, row by row: [B, C, S, S] -> [B, g², C, S / g, S / g]."""
    batch, channels, height, width = images.shape
    parts = images.view(batch, channels, grid, height // grid, grid, width // grid)
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def picture(config: Config, images: Tensor, parameters: Parameters) -> Tensor:
    """The tiles in the order in which they pass, with black lines between them: [B, 3, S, S]."""
    grid = config.grid
    orders = permutations(grid**2, config.permutations, config.seed)[parameters["jigsaw.order"]]
    tiles = cells(images, grid)[torch.arange(len(images))[:, None], torch.from_numpy(orders)].clone()
    tiles[..., -1, :] = tiles[..., -1] = 0
    return tiles.unflatten(1, (grid, grid)).permute(0, 3, 1, 4, 2, 5).reshape(images.shape)


class Jigsaw(Auxiliary):
    """Cross-entropy over permutations, from the vectors of the permuted tiles of every view."""

    @classmethod
    def check_views(cls, views: Mapping[str, ViewConfig]) -> None:
        for name, view in views.items():
            if view.transform is not None:
                raise ValueError(f"views.{name}.transform={view.transform} can't be used with jigsaw; leave it out")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        options = context.options
        for name, view in context.views.items():
            if view.size % options.grid:
                raise ValueError(
                    f"views.{name}.size {view.size} can't be cut into {options.grid} × {options.grid} tiles; choose a "
                    f"multiple of {options.grid}"
                )
        tiles = options.grid**2
        self.heads["tile"] = nn.Sequential(
            nn.Linear(context.width, options.tile_width), nn.ReLU(inplace=True), nn.Dropout(options.dropout)
        )
        self.heads["permutation"] = nn.Sequential(
            nn.Linear(tiles * options.tile_width, options.hidden), nn.ReLU(inplace=True),
            nn.Dropout(options.dropout), nn.Linear(options.hidden, options.permutations),
        )  # fmt: skip
        self._last: Tensor | None = None

    def inputs(self, images: Sequence[Tensor], parameters: Sequence[Parameters]) -> Tensor:
        """Tiles of each image in its order, image by image: [V·B·g², 3, S, S]."""
        options = self.context.options
        views = torch.cat(list(images))
        orders = permutations(options.grid**2, options.permutations, options.seed)[self._labels(parameters)]
        place = torch.from_numpy(orders).to(views.device, non_blocking=True)
        rows = torch.arange(len(views), device=views.device)[:, None]
        tiles = cells(views, options.grid)[rows, place].flatten(0, 1)  # permuted before they grow
        return F.interpolate(tiles, views.shape[-2:], mode="bilinear", align_corners=False)

    def forward(self, vectors: Tensor, parameters: Sequence[Parameters], progress: Progress) -> dict[str, Tensor]:
        tiles = self.context.options.grid**2
        labels = torch.from_numpy(self._labels(parameters)).to(vectors.device, non_blocking=True)
        logits = self.heads["permutation"](self.heads["tile"](vectors).view(len(labels), -1))
        assert len(vectors) == tiles * len(labels)
        self._last = (logits.argmax(1) == labels).float().mean()
        return {self.context.name: F.cross_entropy(logits, labels)}

    def health(self) -> dict[str, Tensor]:
        """Share of the permutations recognised in the last batch; chance is 1 / `permutations`."""
        return {} if self._last is None else {"accuracy": self._last}

    def _labels(self, parameters: Sequence[Parameters]) -> np.ndarray:
        return np.concatenate([of_view[f"{self.context.name}.order"] for of_view in parameters]).astype(np.int64)


LOSS = Jigsaw
