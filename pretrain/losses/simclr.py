"""SimCLR: NT-Xent between the two views of an image among all views of all ranks (arXiv 2002.05709)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from core.distributed import gather_rows_with_gradient
from pretrain.heads import build_head
from pretrain.losses.base import Context, Encoded, Encoder, Objective, Outputs, Progress
from pretrain.losses.latent import collapse, projected, spread
from pretrain.views.config import GLOBAL, ViewConfig


@dataclass(frozen=True)
class Config:
    """SimCLR has no options beyond `objective.temperature`, `projector` and the recipe's views."""


def nt_xent(first: Tensor, second: Tensor, gathered: Tensor, temperature: float, rank: int = 0) -> Tensor:
    """Mean over the 2·B anchors of this rank of the cross-entropy of their partner among all other views.

    `first`, `second` [B, D]: the two views of each image; `gathered` [W·2B, D]: both views of each rank, in rank order.
    Similarities are cosines / τ; an anchor itself is no candidate. arXiv 2002.05709, equation 1.
    """
    anchors = F.normalize(torch.cat([first, second]), dim=1)
    logits = anchors @ F.normalize(gathered, dim=1).T / temperature
    own = torch.arange(len(anchors), device=logits.device) + rank * len(anchors)
    logits = logits.scatter(1, own[:, None], -torch.inf)
    partner = own.view(2, -1).flip(0).flatten()
    return F.cross_entropy(logits, partner)


class SimClr(Objective):
    """weight · NT-Xent of the projections of the two global views; gradients flow into both."""

    USES: ClassVar[frozenset[str]] = frozenset({"projector", "temperature"})
    TARGETS: ClassVar[tuple[str, ...]] = ("none",)
    JOINT: ClassVar[bool] = True
    STATIC: ClassVar[bool] = True

    @classmethod
    def check_views(cls, views: Mapping[str, ViewConfig]) -> None:
        if list(views) != [GLOBAL] or views[GLOBAL].count != 2:
            others = [name for name in views if name != GLOBAL]
            found = f"has {', '.join(others)}" if others else f"has {views[GLOBAL].count} global views"
            raise ValueError(f"views must hold exactly two global views for simclr, but {found}")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.heads["projector"] = build_head(context.width, context.projector)
        self._last: Tensor | None = None

    def encode(self, network: Encoder, images: Tensor, mask: Tensor | None = None) -> Encoded:
        return projected(network, images)

    def forward(self, outputs: Sequence[Outputs], targets: Any, progress: Progress) -> dict[str, Tensor]:
        first, second = (view["projection"] for view in outputs)
        gathered = gather_rows_with_gradient(torch.cat([first, second]))
        self._last = first.detach()
        loss = nt_xent(first, second, gathered, self.context.temperature, self.context.rank)
        return {GLOBAL: self.context.views[GLOBAL].weight * loss}

    def health(self) -> dict[str, Tensor]:
        return {} if self._last is None else {"spread": spread(self._last)}

    def collapse(self, values: Mapping[str, float]) -> str:
        return collapse(values)


LOSS = SimClr
