"""Hiera: windows and pooling leave no trace in the weights, so a name has to be given."""

from __future__ import annotations

from converters.inference.base import Inference, Tensors
from converters.inference.hints import Hints
from core.backbones import BackboneConfig
from core.errors import UserError


def _config(tensors: Tensors, hints: Hints) -> tuple[BackboneConfig, str]:
    raise UserError("a Hiera doesn't show the size of its windows; give --arch, e.g. hiera_tiny_224")


INFERENCE = Inference(
    ("patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight"),
    _config,
    absent=("cls_token",),
    pattern=r"blocks\.\d+\.proj\.weight",
)
