"""Optimisers: AdamW, SGD and LARS over parameter groups that spare biases and norms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OptimConfig:
    name: Literal["lars", "sgd", "adamw"] = "lars"
    """Optimiser."""
    lr: float = 0.4
    """Learning rate at a global batch of 256; the rate used is lr × batch / 256."""
    weight_decay: float = 1.5e-6
    """Weight decay (decoupled in AdamW)."""
    momentum: float = 0.9
    """Momentum of LARS and SGD."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's two moments."""
    trust: float = 0.001
    """LARS' η."""
    decay_norms: bool = False
    """Decay biases and norm parameters too (SimSiam's recipe)."""
    constant_predictor_lr: bool = False
    """Keep the predictors at the peak learning rate throughout (SimSiam)."""
    clip: float | None = None
    """Largest norm of the whole gradient; none: no clipping."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, not {self.lr}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, but is {self.weight_decay}")
        if not 0 <= self.momentum < 1 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("momentum and betas must lie in [0, 1)")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip must be positive or null, not {self.clip}")


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling with momentum. arXiv 1708.03888, algorithm 1.

    Groups with `adapt` False (biases, norms) take plain momentum SGD steps. All tensors of a group are updated by
    a handful of multi-tensor kernels, and no value is read back to the host.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients; parameters without one are left alone."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            updates: list[Tensor] = [parameter.grad for parameter in parameters]
            if group["weight_decay"]:
                updates = list(torch._foreach_add(updates, parameters, alpha=group["weight_decay"]))
            if group["adapt"]:
                norms = torch.stack(torch._foreach_norm(parameters))
                update_norms = torch.stack(torch._foreach_norm(updates))
                rates = torch.where((norms > 0) & (update_norms > 0), group["trust"] * norms / update_norms, 1.0)
                updates = list(torch._foreach_mul(updates, list(rates.unbind())))
            velocities = []
            for parameter in parameters:
                state = self.state[parameter]
                if "velocity" not in state:
                    state["velocity"] = torch.zeros_like(parameter)
                velocities.append(state["velocity"])
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, updates)
            torch._foreach_add_(parameters, velocities, alpha=-group["lr"])


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Weights, and biases with norms (1-D parameters: no adaptation, and no decay unless `decay_norms`).

    With `constant_predictor_lr`, parameters below `predictors.` form groups of their own, marked `constant`.
    Class tokens and position embeddings (leading dimension 1) count as weights, as in the reference recipe.
    """
    buckets: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            constant = config.constant_predictor_lr and name.startswith("predictors.")
            buckets.setdefault((constant, parameter.ndim == 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if config.decay_norms or not small else 0.0,
            "adapt": not small,
            "constant": constant,
        }
        for (constant, small), parameters in buckets.items()
    ]


def build_optimiser(model: nn.Module, config: OptimConfig, peak_lr: float) -> torch.optim.Optimizer:
    """The configured optimiser; the schedule sets each group's `lr` before every step."""
    groups = parameter_groups(model, config)
    if config.name == "lars":
        return LARS(groups, lr=peak_lr, momentum=config.momentum, trust=config.trust)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=peak_lr, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=peak_lr, betas=config.betas)


def set_learning_rate(optimiser: torch.optim.Optimizer, peak_lr: float, factor: float) -> None:
    """peak × factor for every group, peak alone for those marked `constant`."""
    for group in optimiser.param_groups:
        group["lr"] = peak_lr * (1.0 if group["constant"] else factor)
