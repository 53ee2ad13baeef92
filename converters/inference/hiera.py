"""Hiera: windows and pooling leave no trace in the weights, so a config.json or a name has to give them."""

from __future__ import annotations

from converters.inference.base import Inference, Tensors, count
from converters.inference.hints import Hints
from core.backbones import BackboneConfig
from core.errors import UserError


def _config(tensors: Tensors, hints: Hints) -> tuple[BackboneConfig, str]:
    if "stages" not in hints.args:
        raise UserError("a Hiera doesn't show the size of its windows; give --arch, e.g. hiera_tiny_224")
    stages, blocks = hints.args["stages"], count(tensors, r"blocks\.(\d{1,3})\.")
    if not isinstance(stages, list) or sum(stages) != blocks:
        raise UserError(f"the weights are of a Hiera of {blocks} blocks, and config.json lists {stages}; correct it")
    return BackboneConfig("hiera_base_224"), ""  # the arguments follow from the hints


INFERENCE = Inference(
    ("patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight"),
    _config,
    absent=("cls_token",),
    pattern=r"blocks\.\d+\.proj\.weight",
)
