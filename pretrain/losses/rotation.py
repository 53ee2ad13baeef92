"""Rotation: which of the four quarter turns an image has (Gidaris et al., arXiv 1803.07728; ScatSimCLR, 2108.13939)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.losses.base import Auxiliary, Context, Parameters, Progress
from pretrain.views.config import ViewConfig


@dataclass(frozen=True)
class Config:
    """Options of rotation."""

    hidden: tuple[int, ...] = (512, 128)
    """Widths of the head's hidden layers."""
    dropout: float = 0.5
    """Dropout after each hidden layer."""

    def __post_init__(self) -> None:
        if min(self.hidden, default=1) < 1 or not 0 <= self.dropout < 1:
            raise ValueError("hidden must be positive widths, and dropout must lie in [0, 1)")


class Rotation(Auxiliary):
    """Cross-entropy over the quarter turns, from the vectors of all four turns of every view.

    The four passes see the same crop and colours; only the turn differs.
    """

    @classmethod
    def check_views(cls, views: Mapping[str, ViewConfig]) -> None:
        for name, view in views.items():
            if view.transform is not None:
                raise ValueError(
                    f"views.{name}.transform={view.transform} makes the turn of its views ambiguous; rotation turns "
                    f"plain views itself"
                )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        layers: list[nn.Module] = []
        width = context.width
        for hidden in context.options.hidden:
            layers += [nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Dropout(context.options.dropout)]
            width = hidden
        self.heads["turn"] = nn.Sequential(*layers, nn.Linear(width, 4))
        self._last: Tensor | None = None

    def inputs(self, images: Sequence[Tensor], parameters: Sequence[Parameters]) -> Tensor:
        """The views turned by 0, 1, 2 and 3 quarters counter-clockwise, in this order: [4·V·B, 3, S, S]."""
        views = torch.cat(list(images))
        return torch.cat([torch.rot90(views, turns, (2, 3)) for turns in range(4)])

    def forward(self, vectors: Tensor, parameters: Sequence[Parameters], progress: Progress) -> dict[str, Tensor]:
        logits = self.heads["turn"](vectors)
        turns = torch.arange(4, device=vectors.device).repeat_interleave(len(vectors) // 4)
        self._last = (logits.argmax(1) == turns).float().mean()
        return {self.context.name: F.cross_entropy(logits, turns)}

    def health(self) -> dict[str, Tensor]:
        """Share of the turns recognised in the last batch; chance is 0.25."""
        return {} if self._last is None else {"accuracy": self._last}


LOSS = Rotation
