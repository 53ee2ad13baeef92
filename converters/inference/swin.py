"""Swin (v1): window and number of heads are the shape of its tables of relative positions."""

from __future__ import annotations

import math
from typing import Any

from converters.inference.base import Inference, Tensors, changed, depths_of
from converters.inference.hints import Hints
from core.backbones import BackboneConfig

_TINY = {
    "patch_size": 4, "window_size": 7, "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24],
    "mlp_ratio": 4.0,
}  # fmt: skip
_SIZES: dict[tuple[tuple[int, ...], int], str] = {
    ((2, 2, 6, 2), 96): "tiny", ((2, 2, 18, 2), 96): "small",
    ((2, 2, 18, 2), 128): "base", ((2, 2, 18, 2), 192): "large",
}  # fmt: skip
_HEADS = {96: [3, 6, 12, 24], 128: [4, 8, 16, 32], 192: [6, 12, 24, 48]}
_TABLE = "layers.{}.blocks.0.attn.relative_position_bias_table"


def _config(tensors: Tensors, hints: Hints) -> tuple[BackboneConfig, str]:
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    depths = depths_of(tensors, "layers")
    heads = [tensors[_TABLE.format(stage)].shape[1] for stage in range(len(depths))]
    window = (math.isqrt(tensors[_TABLE.format(0)].shape[0]) + 1) // 2
    side = 384 if window == 12 else 224
    args: dict[str, Any] = {
        "patch_size": patch, "window_size": window, "embed_dim": width, "depths": depths, "num_heads": heads,
        "mlp_ratio": tensors["layers.0.blocks.0.mlp.fc1.weight"].shape[0] / width,
    }  # fmt: skip
    size = _SIZES.get((tuple(depths), width))
    note = f"images of {side} px assumed" if window in (7, 12) else ""
    if size and heads == _HEADS[width] and patch == 4 and window == 7 and args["mlp_ratio"] == 4:
        return BackboneConfig(f"swin_{size}_patch4_window7_224"), note
    args = changed(args, _TINY) | ({"img_size": side} if window == 12 else {})
    return BackboneConfig("swin_tiny_patch4_window7_224", args), note


INFERENCE = Inference((_TABLE.format(0), "patch_embed.proj.weight"), _config)
