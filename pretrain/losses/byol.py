"""BYOL: cosine distance to the momentum network's projection (arXiv 2006.07733)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from pretrain.losses.base import Outputs
from pretrain.losses.latent import Latent


@dataclass(frozen=True)
class Config:
    """BYOL has no options beyond the recipe's heads and views."""


def byol(prediction: Tensor, target: Tensor) -> Tensor:
    """2 − 2·cos, averaged over the batch: [B, D], [B, D] -> scalar. BYOL, arXiv 2006.07733, equation 2."""
    return 2 - 2 * F.cosine_similarity(prediction, target, dim=1).mean()


class Byol(Latent):
    """2 − 2·cos of prediction and target."""

    def distance(self, view: Outputs, target: Tensor) -> Tensor:
        return byol(view["prediction"], target)


LOSS = Byol
