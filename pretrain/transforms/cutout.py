"""Cutout: one filled box per view (arXiv 2602.05845, section on views; DeVries & Taylor, arXiv 1708.04552)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Config:
    """Options of cutout."""

    area: tuple[float, float] = (0.2, 0.4)
    """The box's share of the view's area, drawn uniformly between the two."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width / height of the box, drawn log-uniformly between the two."""
    probability: float = 1.0
    """Share of the samples that get a box."""
    fill: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """RGB of the box in 0…1; the default is ImageNet's mean. The colours follow, as in the paper's code, so the box
    is not exactly zero after normalisation: its mean there is 0.0 to 0.8."""

    def __post_init__(self) -> None:
        if not 0 < self.area[0] <= self.area[1]:
            raise ValueError(f"area must be (min, max) with 0 < min ≤ max, not {self.area}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be (min, max) with 0 < min ≤ max, not {self.ratio}")
        if self.area[1] * max(self.ratio[1], 1 / self.ratio[0]) > 1:
            raise ValueError(
                f"area {self.area} with ratio {self.ratio} gives boxes larger than the view; lower its max"
            )
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be in 0…1, not {self.probability}")
        if not all(0 <= value <= 1 for value in self.fill):
            raise ValueError(f"fill must be three values in 0…1, not {self.fill}")


def draw(config: Config, size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """`box`: int64 [4] top, left, height, width in pixels; all zero for no box.

    The position is uniform among those where the box lies within the view.
    """
    chance, area, ratio, top, left = rng.random(5).tolist()
    if chance >= config.probability:
        return {"box": np.zeros(4, dtype=np.int64)}
    pixels = size * size * (config.area[0] + (config.area[1] - config.area[0]) * area)
    low, high = math.log(config.ratio[0]), math.log(config.ratio[1])
    aspect = math.exp(low + (high - low) * ratio)
    height = round(math.sqrt(pixels / aspect))
    width = round(math.sqrt(pixels * aspect))
    box = (int(top * (size - height + 1)), int(left * (size - width + 1)), height, width)
    return {"box": np.array(box, dtype=np.int64)}


def apply(images: torch.Tensor, parameters: Mapping[str, np.ndarray], config: Config) -> torch.Tensor:
    """Fills each sample's box [B, 4] with `config.fill`."""
    device = images.device
    box = torch.from_numpy(parameters["box"]).to(device, non_blocking=True)
    top, left, height, width = box[:, :, None].unbind(1)
    rows = torch.arange(images.shape[2], device=device)
    columns = torch.arange(images.shape[3], device=device)
    in_rows = (rows >= top) & (rows < top + height)
    in_columns = (columns >= left) & (columns < left + width)
    covered = (in_rows[:, None, :, None] & in_columns[:, None, None, :]).to(images.dtype)
    fill = torch.tensor(config.fill).to(device, non_blocking=True)[:, None, None]
    return images.mul_(1 - covered).add_(covered * fill)
