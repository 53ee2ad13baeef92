"""Swin v2: the weights don't show its windows, so settings beside the file have to."""

from __future__ import annotations

from typing import Any

from converters.inference.base import Inference, Tensors, changed, depths_of
from converters.inference.hints import Hints
from core.backbones import BackboneConfig
from core.errors import UserError

_TINY = {
    "patch_size": 4, "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "mlp_ratio": 4.0,
    "window_size": 8, "img_size": 256,
}  # fmt: skip
_SCALE = "layers.{}.blocks.0.attn.logit_scale"


def _config(tensors: Tensors, hints: Hints) -> tuple[BackboneConfig, str]:
    if "window_size" not in hints.args:
        raise UserError("a Swin v2 doesn't show the size of its windows; give --arch, e.g. swinv2_tiny_window8_256")
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    depths = depths_of(tensors, "layers")
    args: dict[str, Any] = {
        "patch_size": patch, "embed_dim": width,
        "depths": depths, "num_heads": [tensors[_SCALE.format(stage)].shape[0] for stage in range(len(depths))],
        "mlp_ratio": tensors["layers.0.blocks.0.mlp.fc1.weight"].shape[0] / width,
    }  # fmt: skip
    return BackboneConfig("swinv2_tiny_window8_256", changed(args, _TINY)), ""


INFERENCE = Inference((_SCALE.format(0), "patch_embed.proj.weight"), _config)
