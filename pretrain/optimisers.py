"""Optimisers: AdamW, SGD and LARS over parameter groups that spare biases and norms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.compute.shards import is_sharded, local, norms
from core.errors import UserError


@dataclass(frozen=True)
class OptimConfig:
    name: Literal["lars", "sgd", "adamw"] = "lars"
    """Optimiser."""
    lr: float = 0.4
    """Learning rate at a global batch of 256; the rate used is lr × batch / 256."""
    weight_decay: float = 1.5e-6
    """Weight decay (decoupled in AdamW)."""
    decay_end: float | None = None
    """Weight decay at the end of the run, reached along half a cosine; none: constant (DINO: from 0.04 to 0.4)."""
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
    """Largest norm of the gradient; none: no clipping."""
    clip_mode: Literal["whole", "tensor"] = "whole"
    """`whole`: the norm of all gradients together is clipped. `tensor`: that of each parameter tensor (DINO)."""
    freeze: dict[str, float] = field(default_factory=dict)
    """Epochs for which the parameters whose names hold this part stay at their start, e.g. `prototypes: 1`."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, not {self.lr}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, but is {self.weight_decay}")
        if not 0 <= self.momentum < 1 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("momentum and betas must lie in [0, 1)")
        if self.decay_end is not None and self.decay_end < 0:
            raise ValueError(f"decay_end must not be negative, but is {self.decay_end}")
        if self.clip is None and self.clip_mode != "whole":
            raise ValueError("clip_mode has no effect without clip; set clip")
        if any(epochs <= 0 for epochs in self.freeze.values()):
            raise ValueError(f"freeze must name parts of parameter names with epochs above 0, not {self.freeze}")
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


def set_weight_decay(optimiser: torch.optim.Optimizer, config: OptimConfig, share: float) -> None:
    """Weight decay after `share` (0 … 1) of the run, for the groups that have one.

    Half a cosine from `weight_decay` to `decay_end`, as in DINO's code (arXiv 2104.14294, section 3).
    """
    if config.decay_end is None:
        return
    decay = config.decay_end + (config.weight_decay - config.decay_end) * (1 + math.cos(math.pi * share)) / 2
    for group in optimiser.param_groups:
        if group["adapt"] or config.decay_norms:
            group["weight_decay"] = decay


def clip_gradients(parameters: Sequence[nn.Parameter], config: OptimConfig) -> Tensor:
    """Clips the gradients in place, together or each tensor alone; reads nothing back to the host.

    Returns the Euclidean norm of all gradients together before it, a scalar on their device.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if config.clip is not None and config.clip_mode == "whole" and not any(map(is_sharded, gradients)):
        return torch.nn.utils.clip_grad_norm_(parameters, config.clip)
    each = norms(gradients)
    together = each.norm()
    if config.clip is None:
        return together
    if config.clip_mode == "whole":
        each = together.expand(len(gradients))
    torch._foreach_mul_(
        [local(gradient) for gradient in gradients], list((config.clip / (each + 1e-6)).clamp(max=1.0).unbind())
    )
    return together


class Freezer:
    """Parameters that stay at their start for some epochs: neither gradient nor decay reaches them."""

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        """Raises `UserError` where a name of `freeze` is part of no parameter's name."""
        self._frozen: list[tuple[float, list[nn.Parameter]]] = []
        for part, epochs in config.freeze.items():
            found = [parameter for name, parameter in model.named_parameters() if part in name]
            if not found:
                raise UserError(f"optim.freeze.{part} is part of no parameter's name; leave it out")
            self._frozen.append((epochs, found))

    def drop_gradients(self, epoch: float) -> None:
        """Drops the gradients of the parameters that are frozen at `epoch`; optimisers leave such parameters alone."""
        for epochs, parameters in self._frozen:
            if epoch < epochs:
                for parameter in parameters:
                    parameter.grad = None
