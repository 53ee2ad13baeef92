"""DINO: cross-entropy between a view's probabilities over prototypes and a target's (arXiv 2104.14294)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pretrain.losses.base import Context, Encoded, Encoder, Outputs, Progress
from pretrain.losses.latent import Pairwise
from pretrain.losses.shared.prototypes import (
    ImageConfig,
    PrototypeHead,
    collapse,
    cross_entropy,
    log_probabilities,
    measures,
    moved_centre,
    target_probabilities,
)


@dataclass(frozen=True)
class Config(ImageConfig):
    """Options of DINO."""


class Dino(Pairwise):
    """D = −Σ q·log p with q = softmax((teacher − centre) / τ_t) and p = softmax(student / τ_s).

    The weights of the view types are those of the recipe: 1/9 for two global and 8/9 for eight local views make the
    mean over all 18 pairs of DINO's code.
    """

    AVERAGED: ClassVar[tuple[str, ...]] = ("head",)
    centre: Tensor

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.options = context.options
        self.heads["head"] = PrototypeHead(context.width, self.options.head)
        self.register_buffer("centre", torch.zeros(self.options.head.prototypes))
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []

    def encode(self, network: Encoder, images: Tensor, mask: Tensor | None = None) -> Encoded:
        vector = network.vector(images)
        return Encoded(vector, heads={"logits": network.get_head("head")(vector)})

    def predict(self, outputs: Sequence[Outputs]) -> list[Outputs]:
        """Adds `log_p`, log-probabilities over prototypes: [B, K]."""
        return [view.with_head("log_p", self._log_p(view["logits"])) for view in outputs]

    def prepare(self, targets: Sequence[Outputs], progress: Progress) -> Any:
        """Probabilities of the global views in their order, [B, K] each."""
        self._logits = [target["logits"] for target in targets]
        temperature = self.options.teacher.temperature_at(progress.epoch)
        self._targets = [target_probabilities(logits, self.centre, temperature) for logits in self._logits]
        return self._targets

    def distance(self, view: Outputs, target: Tensor) -> Tensor:
        return cross_entropy(target, view["log_p"]).mean()

    def observe(self) -> None:
        """Moves the centre towards the mean of this step's target outputs over all ranks."""
        self.centre.copy_(moved_centre(self.centre, self._logits, self.options.teacher.centre_momentum))
        self._logits = []

    def health(self) -> dict[str, Tensor]:
        return measures(self._targets[0])

    def collapse(self, values: Mapping[str, float]) -> str:
        return collapse(values)

    def _log_p(self, logits: Tensor) -> Tensor:
        return log_probabilities(logits, self.options.student_temperature)


LOSS = Dino
