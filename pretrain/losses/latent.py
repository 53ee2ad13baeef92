"""Prediction of a target's projection from the projection of another view: the common part of BYOL and its relatives.

L = Σ over view types v of weight_v · mean over (view x of type v, global target t not the same view) of
D(predictor_v(z(x)), sg(z_target(t))). arXiv 2602.05845, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.heads import build_head
from pretrain.losses.base import Context, Encoded, Encoder, Objective, Outputs, Progress
from pretrain.views.config import GLOBAL, ViewConfig, pairs

SHARED = "shared"

COLLAPSED = 0.02
"""Spread below which the projections count as equal; fresh networks and healthy runs lie above 0.1."""


@torch.no_grad()
def spread(projections: Tensor) -> Tensor:
    """Standard deviation of L2-normalised projections [B, D] over the batch, mean over channels, times √D: a scalar.

    0 where all are equal, about 1 where they lie evenly on the sphere. SimSiam, arXiv 2011.10566, section 4.1.
    """
    return F.normalize(projections, dim=1).std(0, correction=0).mean() * projections.shape[1] ** 0.5


def collapse(values: Mapping[str, float]) -> str:
    """Reason why the `spread` among health `values` means a collapse; empty for a healthy run."""
    if values["spread"] >= COLLAPSED:
        return ""
    return (
        f"different images have nearly the same projection (spread {values['spread']:.2g}, where 1 is even and 0 "
        f"constant)"
    )


def projected(network: Encoder, images: Tensor) -> Encoded:
    """Image vector and its `projection` [R, D]."""
    vector = network.vector(images)
    return Encoded(vector, heads={"projection": network.get_head("projector")(vector)})


def predict_with(predictors: Mapping[str, nn.Module], outputs: Sequence[Outputs]) -> list[Outputs]:
    """Adds `prediction` [B, D] to views of one group; the views of a type pass through its predictor together."""
    predicted = list(outputs)
    for name in dict.fromkeys(view.view for view in outputs):
        rows = [row for row, view in enumerate(outputs) if view.view == name]
        projections = [outputs[row]["projection"] for row in rows]
        values = predictors[name](torch.cat(projections)).split(len(projections[0]))
        for row, prediction in zip(rows, values, strict=True):
            predicted[row] = predicted[row].with_head("prediction", prediction)
    return predicted


class Pairwise(Objective):
    """Sum over view types of weight_v · mean over (view of type v, global target that is not the same view) of D."""

    @classmethod
    def check_views(cls, views: Mapping[str, ViewConfig]) -> None:
        if not any(pairs(views, name) for name in views):
            raise ValueError("views must hold a second view: one global view alone has nothing to predict")

    @property
    def view_types(self) -> list[str]:
        """Types with pairs; a single global view makes targets but no predictions."""
        return [name for name in self.context.views if pairs(self.context.views, name)]

    @property
    def terms(self) -> list[str]:
        return self.view_types

    @property
    def target_types(self) -> list[str]:
        return [GLOBAL]

    def forward(self, outputs: Sequence[Outputs], targets: Any, progress: Progress) -> dict[str, Tensor]:
        views = self.context.views
        terms = {}
        for name in dict.fromkeys(view.view for view in outputs):
            total = torch.zeros((), device=targets[0].device)
            for view in (view for view in outputs if view.view == name):
                for other, target in enumerate(targets):
                    if name != GLOBAL or other != view.index:
                        total = total + self.distance(view, target)
            terms[name] = total * (views[name].weight / pairs(views, name))
        return terms

    def distance(self, view: Outputs, target: Tensor) -> Tensor:
        """D of a view and a prepared target, averaged over the batch: a scalar."""
        raise NotImplementedError


class Latent(Pairwise):
    """D between the prediction of a view and the projection of a target."""

    USES: ClassVar[frozenset[str]] = frozenset({"projector", "predictor", "predictors"})
    TARGETS: ClassVar[tuple[str, ...]] = ("ema", "stop_gradient")
    AVERAGED: ClassVar[tuple[str, ...]] = ("projector",)
    STATIC: ClassVar[bool] = True

    def __init__(self, context: Context) -> None:
        """Raises ValueError where predictor and projector have outputs of different widths."""
        super().__init__(context)
        self.heads["projector"] = build_head(context.width, context.projector)
        names = [SHARED] if context.predictors == SHARED else self.view_types
        width = context.projector.widths[-1]
        self.predictors = nn.ModuleDict({name: build_head(width, context.predictor) for name in names})
        self.heads["predictors"] = self.predictors
        self._targets: Sequence[Tensor] = []

    def encode(self, network: Encoder, images: Tensor, mask: Tensor | None = None) -> Encoded:
        return projected(network, images)

    def predict(self, outputs: Sequence[Outputs]) -> list[Outputs]:
        """Adds `prediction`, each view type's by its predictor: [B, D]."""
        shared = SHARED in self.predictors
        return predict_with({name: self.predictors[SHARED if shared else name] for name in self.view_types}, outputs)

    def prepare(self, targets: Sequence[Outputs], progress: Progress) -> Sequence[Tensor]:
        """Projections of the global views in their order, [B, D] each."""
        self._targets = [target["projection"] for target in targets]
        return self._targets

    def health(self) -> dict[str, Tensor]:
        return {"spread": spread(self._targets[0])}

    def collapse(self, values: Mapping[str, float]) -> str:
        return collapse(values)
