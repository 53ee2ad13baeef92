"""Key maps of OpenMMLab: MMSegmentation's ViT; MMPretrain's ViT (DeiT III, DINOv2, …), BEiT, Swin and ConvNeXt."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from converters.key_maps.base import MASKED, ON_TOP, KeyMap
from converters.key_maps.convnext import AUTHORS as CONVNEXT_AUTHORS
from converters.key_maps.swin import TIMM as SWIN_TIMM

_COMMON = (
    ("cls_token", "cls_token"),
    ("pos_embed", "pos_embed"),
    ("patch_embed.proj.{}", "patch_embed.projection.{}"),
    ("blocks.{}.norm{}.{}", "layers.{}.ln{}.{}"),
    ("blocks.{}.mlp.fc1.{}", "layers.{}.ffn.layers.0.0.{}"),
    ("blocks.{}.mlp.fc2.{}", "layers.{}.ffn.layers.1.{}"),
    ("norm.{}", "ln1.{}"),
)
_ASSUMED = "layer norms with eps 1e-6 assumed"

VIT = KeyMap(
    "MMSegmentation's ViT",
    "layers.0.attn.attn.in_proj_weight",
    "patch_embed.projection.",
    templates=(
        *_COMMON,
        ("blocks.{}.attn.qkv.{}", "layers.{}.attn.attn.in_proj_{}"),
        ("blocks.{}.attn.proj.{}", "layers.{}.attn.attn.out_proj.{}"),
    ),
    note=_ASSUMED,
    heads={**ON_TOP, **MASKED},
    positions="bicubic",
)

_TABLE = "relative_position_bias_table"
_FIXED = {r"(.*\.)?relative_position_index$": "fixed numbers of relative positions"}
_VIT = (
    ("blocks.{}.ls1.gamma", "layers.{}.attn.gamma1.weight"),
    ("blocks.{}.ls2.gamma", "layers.{}.ffn.gamma2.weight"),
    *_COMMON,
    ("blocks.{}.attn.{}.{}", "layers.{}.attn.{}.{}"),
)


def _deit(tensors: dict[str, Tensor]) -> str:
    """A note on DeiT III, which has layer scale and a class token without a position."""
    positions = tensors.get("pos_embed")
    if "blocks.0.ls1.gamma" not in tensors or "cls_token" not in tensors or positions is None or positions.ndim != 3:
        return ""
    if math.isqrt(positions.shape[1]) ** 2 != positions.shape[1]:
        return ""
    return "DeiT III as published; MMPretrain's own code applies the first norm of a block twice"


MMPRETRAIN_VIT = KeyMap(
    "MMPretrain's ViT",
    "layers.0.attn.qkv.weight",
    "patch_embed.projection.",
    templates=(*_VIT, ("fc_norm.{}", "ln2.{}")),
    note=_ASSUMED,
    heads={**ON_TOP, **MASKED},
    adapt=_deit,
    positions="bicubic",
)

BEIT = KeyMap(
    "MMPretrain's BEiT",
    "layers.0.attn.relative_position_bias_table",
    "patch_embed.projection.",
    templates=(
        ("blocks.{}.gamma_{}", "layers.{}.gamma_{}"),
        *((f"blocks.{{}}.attn.{part}", f"layers.{{}}.attn.{part}") for part in ("q_bias", "v_bias", _TABLE)),
        ("fc_norm.{}", "ln2.{}"),
        *_VIT,
    ),
    note=_ASSUMED,
    heads={**ON_TOP, **MASKED, **_FIXED},
)


def _swin(tensors: dict[str, Tensor]) -> str:
    """Brings the four neighbours that are merged into timm's order; OpenMMLab's has them side by side per channel."""
    for name, tensor in tensors.items():
        if re.fullmatch(r"layers\.\d+\.downsample\.(norm\.(weight|bias)|reduction\.weight)", name):
            columns = tensor.reshape(*tensor.shape[:-1], -1, 4)[..., torch.tensor([0, 2, 1, 3])]
            tensors[name] = columns.transpose(-1, -2).reshape(tensor.shape)
    assert SWIN_TIMM.adapt is not None
    return "; ".join(filter(None, ("merged neighbours in timm's order", SWIN_TIMM.adapt(tensors))))


_BLOCK = "stages.{}.blocks.{}."
SWIN = KeyMap(
    "MMPretrain's Swin",
    "stages.0.blocks.0.attn.w_msa.qkv.weight",
    "patch_embed.projection.",
    templates=(
        ("patch_embed.proj.{}", "patch_embed.projection.{}"),
        ("patch_embed.norm.{}", "patch_embed.norm.{}"),
        ("layers.{}.blocks.{}.norm{}.{}", _BLOCK + "norm{}.{}"),
        ("layers.{}.blocks.{}.attn.{}.{}", _BLOCK + "attn.w_msa.{}.{}"),
        (f"layers.{{}}.blocks.{{}}.attn.{_TABLE}", f"{_BLOCK}attn.w_msa.{_TABLE}"),
        ("layers.{}.blocks.{}.mlp.fc1.{}", _BLOCK + "ffn.layers.0.0.{}"),
        ("layers.{}.blocks.{}.mlp.fc2.{}", _BLOCK + "ffn.layers.1.{}"),
        ("layers.{}.downsample.{}.{}", "stages.{}.downsample.{}.{}"),
        ("norm.{}", "norm3.{}"),
    ),
    heads={**ON_TOP, **MASKED, **_FIXED, r"norm[0-2]\.": "norm of an earlier stage"},
    adapt=_swin,
)

CONVNEXT = KeyMap(
    "MMPretrain's ConvNeXt",
    "stages.0.0.depthwise_conv.weight",
    "downsample_layers.0.",
    templates=(
        ("stem.{}.{}", "downsample_layers.0.{}.{}"),
        ("stages.{n}.downsample.{}.{}", "downsample_layers.{n}.{}.{}"),
        ("stages.{}.blocks.{}.conv_dw.{}", "stages.{}.{}.depthwise_conv.{}"),
        ("stages.{}.blocks.{}.mlp.fc{}.{}", "stages.{}.{}.pointwise_conv{}.{}"),
        ("stages.{}.blocks.{}.mlp.grn.weight", "stages.{}.{}.grn.gamma"),
        ("stages.{}.blocks.{}.mlp.grn.bias", "stages.{}.{}.grn.beta"),
        ("stages.{}.blocks.{}.norm.{}", "stages.{}.{}.norm.{}"),
        ("stages.{}.blocks.{}.gamma", "stages.{}.{}.gamma"),
        ("head.norm.{}", "norm3.{}"),
    ),
    heads={**CONVNEXT_AUTHORS.heads, r"norm[0-2]\.": "norm of an earlier stage"},
    adapt=CONVNEXT_AUTHORS.adapt,
)

KEY_MAPS = (VIT, MMPRETRAIN_VIT, BEIT, SWIN, CONVNEXT)
