"""Excess loss of a run's predictors: how much lower the loss is with predictors fitted to the encoder as it stands.

A predictor that serves several view types can differ from the best one of a type for two reasons: it lags behind an
encoder that changes, and its one function has to fit all types. On projections of the frozen networks three losses per
view type separate them: `trained` of the run's own predictor, `alone` of one fitted to this view type only, `together`
of one fitted to all view types. trained − alone is the excess loss; together − alone is the part of it that remains
however a shared predictor is trained.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from core.data.base import ImageSet
from core.data.order import GlobalBatches
from core.distributed import Processes
from core.errors import UserError
from pretrain.build_losses import open_views
from pretrain.config import PretrainConfig
from pretrain.heads import build_head
from pretrain.losses.base import Outputs, Progress
from pretrain.losses.latent import SHARED, Latent, predict_with
from pretrain.method import Method
from pretrain.views.collate import Batch, collate
from pretrain.views.config import pairs
from pretrain.views.on_device import parameters_of, views_on_device

HELD_OUT = 3
"""Every third batch is held out: the losses are those of batches that no predictor was fitted to."""
STEPS = 100
"""Steps of a fit, one batch each."""
LR = 2e-3
"""First learning rate of a fit (Adam); it falls to 0 along a cosine."""
PREFIX = "predictor/"
"""Metrics are called predictor/VIEW/trained, predictor/VIEW/alone and predictor/VIEW/together."""


@dataclass(frozen=True)
class _Projected:
    """A batch after the frozen networks."""

    groups: list[list[Outputs]]
    """Projections of the views, in the groups that pass together."""
    targets: Any
    """Prepared targets."""


class PredictorFit:
    """Measures a method with predictors on a fixed sample of images and views; leaves it and the random state alone."""

    def __init__(self, config: PretrainConfig, images: ImageSet, processes: Processes, workers: int) -> None:
        """Raises `UserError` where several processes train, and where the images fill fewer than three batches."""
        if processes.world_size > 1:
            raise UserError("monitor.predictor_fits measures in one process; set it to 0 with several")
        count = min(config.monitor.predictor_images, len(images)) // config.batch
        if count < HELD_OUT:
            raise UserError(
                f"monitor.predictor_images {config.monitor.predictor_images} of {len(images)} images must fill "
                f"{HELD_OUT} batches of {config.batch}; raise it, or lower batch"
            )
        self._config, self._images, self._device, self._workers = config, images, processes.device, workers
        self._count = count
        self._kept: list[Batch] = []
        self.steps = STEPS

    def measure(self, method: Method) -> dict[str, float]:
        """`trained`, `alone` and `together` of each view type, mean over pairs, without the view type's weight."""
        objective = method.objective
        assert isinstance(objective, Latent)
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices), _buffers_kept(method.networks()):
            torch.manual_seed(self._config.seed)
            batches = [self._project(method, batch) for batch in self._batches()]
            held_out, fitted = batches[::HELD_OUT], [b for n, b in enumerate(batches) if n % HELD_OUT]
            own = {
                name: objective.predictors[SHARED if SHARED in objective.predictors else name]
                for name in objective.view_types
                if pairs(self._config.views, name) and self._config.views[name].weight
            }
            losses: dict[str, Tensor] = {}
            for name, loss in _mean_losses(objective, copy.deepcopy(own), held_out).items():
                losses[f"{name}/trained"] = loss
            together = [
                self._fit(objective, dict.fromkeys(own, start), fitted, held_out)
                for start in (self._fresh(), copy.deepcopy(next(iter(own.values()))))
            ]
            best = min(together, key=lambda found: float(sum(found.values())))
            for name, predictor in own.items():
                losses[f"{name}/together"] = best[name]
                alone = [
                    self._fit(objective, {name: start}, fitted, held_out)[name]
                    for start in (self._fresh(), copy.deepcopy(predictor))
                ]
                losses[f"{name}/alone"] = min(alone, key=float)
        return {f"{PREFIX}{key}": float(loss) for key, loss in losses.items()}

    def _fresh(self) -> nn.Module:
        return build_head(self._config.projector.widths[-1], self._config.predictor).to(self._device)

    def _batches(self) -> list[Batch]:
        """The sample; read once and kept as bytes."""
        if not self._kept:
            order = GlobalBatches(len(self._images), self._config.batch, 1, self._config.seed)
            loader = DataLoader(
                open_views(self._images, self._config),
                batch_sampler=list(itertools.islice(order, self._count)),
                collate_fn=collate,
                num_workers=self._workers,
                generator=torch.Generator(),
            )
            self._kept = list(loader)
        return self._kept

    def _project(self, method: Method, batch: Batch) -> _Projected:
        views = views_on_device(batch, self._config, self._device, method.layout)
        groups, targets = method.project(views, parameters_of(batch))
        return _Projected(groups, targets)

    def _fit(
        self, objective: Latent, predictors: Mapping[str, nn.Module], fitted: Sequence[_Projected],
        held_out: Sequence[_Projected],
    ) -> dict[str, Tensor]:  # fmt: skip
        """Fits the predictors, which may be one module under several names; mean losses on held-out batches."""
        modules = nn.ModuleList(dict.fromkeys(predictors.values()))
        modules.train().requires_grad_(True)
        optimiser = torch.optim.Adam(modules.parameters(), LR)
        for step in range(self.steps):
            optimiser.param_groups[0]["lr"] = LR * (1 + math.cos(math.pi * step / self.steps)) / 2
            losses = _losses(objective, predictors, fitted[step % len(fitted)])
            torch.stack(list(losses.values())).sum().backward()
            optimiser.step()
            optimiser.zero_grad()
        return _mean_losses(objective, predictors, held_out)


def _losses(objective: Latent, predictors: Mapping[str, nn.Module], batch: _Projected) -> dict[str, Tensor]:
    """Mean D over the pairs of each view type that has a predictor."""
    found: dict[str, Tensor] = {}
    for group in batch.groups:
        if outputs := [view for view in group if view.view in predictors]:
            for name, term in objective(predict_with(predictors, outputs), batch.targets, Progress()).items():
                found[name] = found.get(name, 0) + term
    return {name: term / objective.context.views[name].weight for name, term in found.items()}


@torch.no_grad()
def _mean_losses(
    objective: Latent, predictors: Mapping[str, nn.Module], batches: Sequence[_Projected]
) -> dict[str, Tensor]:
    """Means over batches; norms use the statistics of each batch, as in training."""
    for predictor in predictors.values():
        predictor.train()
    rows = [_losses(objective, predictors, batch) for batch in batches]
    return {name: torch.stack([row[name] for row in rows]).mean() for name in rows[0]}


@contextmanager
def _buffers_kept(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Running statistics of norms are afterwards what they were."""
    kept = [(buffer, buffer.clone()) for network in networks for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)
