"""Tiny recipes with a ViT or a ResNet for tests of losses, their views, and methods in double precision."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from core.config import load_config
from pretrain.config import PretrainConfig
from pretrain.method import Method

_ARGS = "img_size: 32, patch_size: 8, embed_dim: 24, depth: 2, num_heads: 2"
VIT = "backbone={name: vit_tiny_patch16_224, args: {" + _ARGS + "}}"
WITHOUT_CLASS_TOKEN = VIT.replace("num_heads: 2", "num_heads: 2, class_token: false, global_pool: ''")
RESNET = "backbone={name: resnet18, args: {channels: [8, 8, 8, 16]}, stem: small}"
VIEWS = "views={global: {count: 2, size: 32}, local: {count: 2, size: 24, photometric: [{blur_kernel: 9}]}}"
HEAD = "{hidden: 16, layers: 2, bottleneck: 8, prototypes: 12}"
DINO = ["objective={name: dino, options: {head: " + HEAD + "}}"]
IBOT = ["objective={name: ibot, options: {patch_size: 8, head: " + HEAD + "}}"]
SELFPATCH = [
    WITHOUT_CLASS_TOKEN,
    "objective={name: selfpatch, options: {head: " + HEAD + ", patch_head: " + HEAD + "}}",
]


def recipe(*overrides: str) -> PretrainConfig:
    """Two global views of 32 px and two local ones of 24 px, batches of 4; `overrides` come last."""
    return load_config(
        PretrainConfig,
        None,
        ["batch=4", "epochs=20", "schedule.warmup_epochs=0", "compute.channels_last=false", VIT, VIEWS, *overrides],
    )


def build(config: PretrainConfig, double: bool = True) -> Method:
    """Method with weights of seed 0; double precision leaves rounding nowhere to hide."""
    torch.manual_seed(0)
    method = Method(config, torch.device("cpu"))
    if double:
        for network in method.networks():
            network.double()
        for loss in method.losses().values():
            loss.double()
    return method


def views_of(config: PretrainConfig, seed: int = 1, double: bool = True) -> dict[str, list[Tensor]]:
    """Random normalised images of each view."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if double else torch.float32
    return {
        name: [
            torch.randn(config.batch, 3, view.size, view.size, generator=generator, dtype=torch.float64).to(dtype)
            for _ in range(view.count)
        ]
        for name, view in config.views.items()
    }


def parameters_of(config: PretrainConfig, **arrays: np.ndarray) -> dict[str, list[dict[str, np.ndarray]]]:
    """The same parameters (arrays [B, …]) for every view."""
    return {name: [dict(arrays) for _ in range(view.count)] for name, view in config.views.items()}
