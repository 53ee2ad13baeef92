"""Optimiser and learning-rate schedule of a detector."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler, build_optimizer
from torch import nn

from core.backbones import LayerGroups, family_of
from evaluate.detection.model.designs import design_named
from evaluate.detection.settings import DetectionConfig


def build(cfg: CfgNode, config: DetectionConfig, detector: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    """The optimiser, and Detectron2's multi-step schedule with warm-up over it (one `step()` after each iteration)."""
    optimiser = _OPTIMISERS[config.solver.optimiser](cfg, config, detector)
    return optimiser, build_lr_scheduler(cfg, optimiser)


def _sgd(cfg: CfgNode, config: DetectionConfig, detector: nn.Module) -> torch.optim.Optimizer:
    return build_optimizer(cfg, detector)


def _adamw(cfg: CfgNode, config: DetectionConfig, detector: nn.Module) -> torch.optim.Optimizer:
    rate = cfg.SOLVER.BASE_LR
    return torch.optim.AdamW(parameter_groups(detector, rate, config), lr=rate, betas=(0.9, 0.999))


_OPTIMISERS = {"sgd": _sgd, "adamw": _adamw}


def parameter_groups(detector: nn.Module, lr: float, config: DetectionConfig) -> list[dict[str, Any]]:
    """Groups for AdamW: no weight decay for vectors, tokens and position embeddings, lower rates for early layers.

    Layer l of timm's network has the rate lr · layer_decay^(top − l), everything outside it the full rate (arXiv
    2106.08254, section 3.1; 2203.16527, appendix A.2).
    """
    solver, prefix = config.solver, design_named(config.detector.design).network()
    of_network = LayerGroups({}, 0)
    if prefix:
        network = detector.get_submodule(prefix.removesuffix("."))
        of_network = family_of(network).layer_groups(network)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in detector.named_parameters():
        if not parameter.requires_grad:
            continue
        own = name.removeprefix(prefix) if prefix and name.startswith(prefix) else ""
        distance = of_network.top - of_network.layers.get(own, of_network.top)
        decays = parameter.ndim > 1 and own not in of_network.undecayed
        key = (lr * solver.layer_decay**distance, solver.weight_decay if decays else 0.0)
        groups.setdefault(key, []).append(parameter)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]
