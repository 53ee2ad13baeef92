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
    """Groups for AdamW: no weight decay for vectors, tokens and position embeddings, lower rates for early layers."""
    solver, prefix = config.solver, design_named(config.detector.design).network()
    of_network = LayerGroups({}, 0)
    if prefix:
        network = detector.get_submodule(prefix.removesuffix("."))
        of_network = family_of(network).layer_groups(network)
    return of_network.optimiser_groups(detector, prefix, lr, solver.layer_decay, solver.weight_decay)
