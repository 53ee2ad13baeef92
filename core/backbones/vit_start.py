"""Initial weights of a ViT where a recipe departs from timm's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from core.backbones import BackboneConfig, build_backbone, describe, family_of
from core.errors import UserError


@dataclass(frozen=True)
class VitStartConfig:
    patch_projection: Literal["default", "xavier"] = "default"
    """`default`: torch's of a convolution. `xavier`: uniform within ±√(6 / (3·p² + width)), bias 0 (MoCo v3, arXiv
    2104.02057, section 4.2)."""
    class_token_std: float | None = None
    """Standard deviation of the class token's truncated normal distribution; null: timm's, 1e-6."""

    def __post_init__(self) -> None:
        if self.class_token_std is not None and not self.class_token_std > 0:
            raise ValueError(f"class_token_std must be positive or null, not {self.class_token_std}")


def build_started(config: BackboneConfig, start: VitStartConfig, drop_path: float) -> nn.Module:
    """`build_backbone`, with a ViT's weights drawn as `start` says (torch's global RNG).

    Raises `UserError` where `start` isn't the default and the network has no patches or no class token.
    """
    model: Any = build_backbone(config, drop_path)
    if start == VitStartConfig():
        return model
    if family_of(model).architecture != "vit":
        raise UserError(f"vit_start is for ViTs, and {describe(config)} is none; leave it out")
    with torch.no_grad():
        if start.patch_projection == "xavier":
            projection = model.patch_embed.proj
            bound = math.sqrt(6 / (projection.weight[0].numel() + projection.out_channels))
            projection.weight.uniform_(-bound, bound)
            if projection.bias is not None:
                projection.bias.zero_()
        if start.class_token_std is not None:
            if model.cls_token is None:
                raise UserError(f"{describe(config)} has no class token; set vit_start.class_token_std=null")
            nn.init.trunc_normal_(model.cls_token, std=start.class_token_std)
    return model
