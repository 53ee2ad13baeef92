"""Optimiser and learning-rate schedule of a detector."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler, build_optimizer
from torch import nn

from core.backbones import LayerGroups, family_of
from evaluate.detection.settings import SolverConfig

_VIT = "backbone.bottom_up.vit"


def build(cfg: CfgNode, solver: SolverConfig, detector: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    """The optimiser, and Detectron2's multi-step schedule with warm-up over it (one `step()` after each iteration)."""
    if solver.optimiser == "sgd":
        optimiser = build_optimizer(cfg, detector)
    else:
        optimiser = torch.optim.AdamW(
            parameter_groups(detector, cfg.SOLVER.BASE_LR, solver), lr=cfg.SOLVER.BASE_LR, betas=(0.9, 0.999)
        )
    return optimiser, build_lr_scheduler(cfg, optimiser)


def parameter_groups(detector: nn.Module, lr: float, solver: SolverConfig) -> list[dict[str, Any]]:
    """Groups for AdamW: no weight decay for vectors, tokens and position embeddings, lower rates for early layers.

    Layer l of a ViT has the rate lr · layer_decay^(top − l), everything outside it the full rate (arXiv 2106.08254,
    section 3.1; 2203.16527, appendix A.2).
    """
    vit = dict(detector.named_modules()).get(_VIT)
    of_vit = LayerGroups({}, 0) if vit is None else family_of(vit).layer_groups(vit)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in detector.named_parameters():
        if not parameter.requires_grad:
            continue
        name = name.removeprefix(f"{_VIT}.")
        distance = of_vit.top - of_vit.layers.get(name, of_vit.top)
        decays = parameter.ndim > 1 and name not in of_vit.undecayed
        key = (lr * solver.layer_decay**distance, solver.weight_decay if decays else 0.0)
        groups.setdefault(key, []).append(parameter)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]
