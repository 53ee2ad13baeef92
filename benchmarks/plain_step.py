"""The plain training step: the same arithmetic as `pretrain.method`, written as loops over parameters and views."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.backbones import pooled_features
from pretrain.config import GLOBAL, PretrainConfig
from pretrain.method import Method


class PlainStep:
    """BYOL over view types in contiguous memory: per-parameter EMA and LARS, every loss read back."""

    def __init__(self, method: Method, config: PretrainConfig) -> None:
        """Starts from copies of the weights of `method`."""
        assert method.target is not None
        assert config.objective.name == "byol"
        assert config.optim.name == "lars"
        self.config, self.device = config, method.device
        self.online: Any = copy.deepcopy(method.online)
        self.target: Any = copy.deepcopy(method.target)
        for network in (self.online, self.target):
            network.to(memory_format=torch.contiguous_format)
        self.velocities: dict[nn.Parameter, Tensor] = {}

    def step(self, views: Mapping[str, Sequence[Tensor]], momentum: float, lr: float) -> float:
        """One update from the normalised views [B, 3, S, S]; gives the loss."""
        self._update_target(momentum)
        with torch.no_grad(), self._autocast():
            projected = [
                self.target.projector(pooled_features(self.target.backbone, images)) for images in views[GLOBAL]
            ]
        targets = [F.normalize(_full(projection), dim=1) for projection in projected]
        total = 0.0
        for name, of_type in views.items():
            terms = len(of_type) * (len(targets) - (name == GLOBAL))
            for number, images in enumerate(of_type):
                with self._autocast():
                    projection = self.online.projector(pooled_features(self.online.backbone, images))
                    prediction = self.online.predictors[name](projection)
                prediction = F.normalize(_full(prediction), dim=1)
                loss = prediction.new_zeros(())
                for other, target in enumerate(targets):
                    if name != GLOBAL or other != number:
                        loss = loss + 2 - 2 * (prediction * target).sum(1).mean()
                loss = loss * (self.config.views[name].weight / terms)
                total += loss.item()
                loss.backward()
        self._descend(lr)
        return total

    @torch.no_grad()
    def _update_target(self, momentum: float) -> None:
        sources = [*self.online.backbone.parameters(), *self.online.projector.parameters()]
        for average, source in zip(self.target.parameters(), sources, strict=True):
            average.mul_(momentum).add_(source, alpha=1 - momentum)

    @torch.no_grad()
    def _descend(self, lr: float) -> None:
        """LARS, one parameter at a time."""
        optim = self.config.optim
        for parameter in self.online.parameters():
            update = parameter.grad
            assert update is not None
            if parameter.ndim > 1:
                update = update.add(parameter, alpha=optim.weight_decay)
                norm, update_norm = parameter.norm(), update.norm()
                one = torch.ones_like(norm)
                rate = torch.where(norm > 0, torch.where(update_norm > 0, optim.trust * norm / update_norm, one), one)
                update = update.mul(rate)
            if parameter not in self.velocities:
                self.velocities[parameter] = torch.zeros_like(parameter)
            velocity = self.velocities[parameter]
            velocity.mul_(optim.momentum).add_(update)
            parameter.add_(velocity, alpha=-lr)
            parameter.grad = None

    def _autocast(self) -> AbstractContextManager[object]:
        precision = self.config.compute.precision
        if precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def _full(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
