"""Spatial prediction: regression of the relative position and scale of two views of an image.

This is our own reading of the abstract of "Learning to Perceive 'Where'" (arXiv 2605.09963); formula, weight, head and
crops are ours, and so are all numbers. Its nearest published relative is AugSelf (arXiv 2111.09613).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.losses.base import Auxiliary, Context, Parameters, Progress
from pretrain.views.config import ViewConfig

COORDINATES = ("dx", "dy", "su", "sv")


@dataclass(frozen=True)
class Config:
    """Options of spatial prediction."""

    hidden: int = 512
    """Width of the two hidden layers of the head."""
    position_std: float = 1.1
    """Constant by which dx and dy are divided: their standard deviation for square images and areas of 0.05–0.25."""
    scale_std: float = 0.35
    """The same for su and sv."""

    def __post_init__(self) -> None:
        if self.hidden < 1 or min(self.position_std, self.scale_std) <= 0:
            raise ValueError("hidden must be at least 1, position_std and scale_std positive")


def relation(first: np.ndarray, second: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Position and scale of the second box as seen from the first: float64 [B, 4] of dx, dy, su, sv.

    Boxes [B, 4]: left, top, width, height; `mirrored`, bool [B]: both views are flipped. dx = ±Δx / √(w₁·w₂) between
    the centres, dy likewise with heights; su = ln(w₂/w₁), sv = ln(h₂/h₁). The opposite pair has the negative relation,
    and resizing the image changes nothing.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    sizes = first[:, 2:], second[:, 2:]
    centres = first[:, :2] + sizes[0] / 2, second[:, :2] + sizes[1] / 2
    moved = (centres[1] - centres[0]) / np.sqrt(sizes[0] * sizes[1])
    moved[:, 0] *= np.where(mirrored, -1.0, 1.0)
    return np.concatenate([moved, np.log(sizes[1] / sizes[0])], axis=1)


class SpatialPrediction(Auxiliary):
    """Smooth L1 (β 1) between the relation of a pair of views, standardised, and its prediction from their vectors.

    The prediction is ½·(g(a, b) − g(b, a)) for an MLP g, hence antisymmetric. Terms: half of the mean over the two
    position coordinates, and over the two scales; an untrained head starts at a sum of about 0.45.
    """

    NOTE: ClassVar[str] = "own reading of the abstract of arXiv 2605.09963"

    @classmethod
    def check_views(cls, views: Mapping[str, ViewConfig]) -> None:
        for name, view in views.items():
            if view.placement != "apart":
                raise ValueError(f"views.{name}.placement must be apart for spatial_prediction, not {view.placement}")
            if view.transform in ("rotate", "shuffle"):
                raise ValueError(f"views.{name}.transform={view.transform} makes the positions of its views untrue")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        hidden = context.options.hidden
        self.heads["relation"] = nn.Sequential(
            nn.Linear(2 * context.width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 4),
        )  # fmt: skip
        self._last: tuple[Tensor, Tensor] | None = None

    @property
    def terms(self) -> list[str]:
        return [f"{self.context.name}/position", f"{self.context.name}/scale"]

    def forward(self, vectors: Tensor, parameters: Sequence[Parameters], progress: Progress) -> dict[str, Tensor]:
        first, second = vectors.chunk(2)
        target = self._target(parameters).to(vectors.device, vectors.dtype, non_blocking=True)
        head = self.heads["relation"]
        both = head(torch.cat([torch.cat([first, second], 1), torch.cat([second, first], 1)]))
        there, back = both.chunk(2)
        prediction = (there - back) / 2
        self._last = (prediction.detach(), target)
        each = F.smooth_l1_loss(prediction, target, reduction="none").mean(0)
        position, scale = self.terms
        return {position: each[:2].sum() / 4, scale: each[2:].sum() / 4}

    def health(self) -> dict[str, Tensor]:
        """R² of each coordinate on the last batch: 1 − Σ error² / Σ target²; 0 where the head knows nothing."""
        if self._last is None:
            return {}
        prediction, target = self._last
        share = (prediction - target).square().sum(0) / target.square().sum(0).clamp(min=1e-12)
        return {f"r2_{name}": value for name, value in zip(COORDINATES, 1 - share, strict=True)}

    def _target(self, parameters: Sequence[Parameters]) -> Tensor:
        first, second = parameters
        assert np.array_equal(first["flip"], second["flip"]), "a pair has one flip"
        options = self.context.options
        stds = [options.position_std] * 2 + [options.scale_std] * 2
        return torch.from_numpy(relation(first["box"], second["box"], first["flip"]) / stds)


LOSS = SpatialPrediction
