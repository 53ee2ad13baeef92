"""MoCo v3: InfoNCE between predictions and the targets of all ranks (arXiv 2104.02057)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from core.distributed import gather_rows
from pretrain.losses.base import Outputs, Progress
from pretrain.losses.latent import Latent


@dataclass(frozen=True)
class Config:
    """MoCo v3 has no options beyond `objective.temperature` and the recipe's heads and views."""


def mocov3(prediction: Tensor, gathered: Tensor, temperature: float, rank: int = 0) -> Tensor:
    """InfoNCE times 2τ. MoCo v3, arXiv 2104.02057, equation 1 and algorithm 1.

    `prediction` [B, D] of this rank, `gathered` [W·B, D]: the targets of all ranks in rank order, of which this
    rank's own start at row rank·B. Vectors are L2-normalised here.
    """
    prediction, gathered = F.normalize(prediction, dim=1), F.normalize(gathered, dim=1)
    logits = prediction @ gathered.T / temperature
    own = torch.arange(len(prediction), device=logits.device) + rank * len(prediction)
    return 2 * temperature * F.cross_entropy(logits, own)


class MocoV3(Latent):
    """InfoNCE of predictions and gathered targets."""

    USES: ClassVar[frozenset[str]] = Latent.USES | {"temperature"}

    def prepare(self, targets: Sequence[Outputs], progress: Progress) -> Sequence[Tensor]:
        """Projections of all ranks for each global view, [W·B, D] each."""
        self._targets = [gather_rows(target["projection"]) for target in targets]
        return self._targets

    def distance(self, view: Outputs, target: Tensor) -> Tensor:
        return mocov3(view["prediction"], target, self.context.temperature, self.context.rank)


LOSS = MocoV3
