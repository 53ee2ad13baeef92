"""Optimiser and learning-rate schedule of a detector."""

from __future__ import annotations

import re
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_lr_scheduler, build_optimizer
from torch import nn

from evaluate.detection.settings import SolverConfig

_UNDECAYED = ("pos_embed", "cls_token", "reg_token", "gamma")


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
    """Groups for AdamW: vectors, tokens and position embeddings without decay, a ViT's early blocks with less rate.

    With d blocks the rate of block i is lr · layer_decay^(d − i), i from 0; what comes before the blocks counts as −1,
    everything outside of the ViT has the whole rate (arXiv 2106.08254, section 3.1; 2203.16527, appendix A.2).
    """
    blocks = re.compile(r"backbone\.bottom_up\.vit\.(?:blocks\.(\d+)\.)?")
    depth = 1 + max(
        (int(m[1]) for name, _ in detector.named_parameters() if (m := blocks.match(name)) and m[1]), default=-1
    )
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in detector.named_parameters():
        if not parameter.requires_grad:
            continue
        found = blocks.match(name)
        distance = 0 if found is None else depth - (int(found[1]) if found[1] else -1)
        plain = parameter.ndim <= 1 or name.endswith(_UNDECAYED)
        key = (lr * solver.layer_decay**distance, 0.0 if plain else solver.weight_decay)
        groups.setdefault(key, []).append(parameter)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]
