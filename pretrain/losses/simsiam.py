"""SimSiam: negative cosine similarity to the projection of another view (arXiv 2011.10566)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from pretrain.losses.base import Outputs
from pretrain.losses.latent import Latent


@dataclass(frozen=True)
class Config:
    """SimSiam has no options beyond the recipe's heads and views."""


def simsiam(prediction: Tensor, target: Tensor) -> Tensor:
    """−cos, averaged over the batch: [B, D], [B, D] -> scalar. SimSiam, arXiv 2011.10566, equation 1."""
    return -F.cosine_similarity(prediction, target, dim=1).mean()


class SimSiam(Latent):
    """−cos of prediction and target."""

    def distance(self, view: Outputs, target: Tensor) -> Tensor:
        return simsiam(view["prediction"], target)


LOSS = SimSiam
