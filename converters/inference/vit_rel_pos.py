"""ViTs with relative positions in their attention, as ViTDet and SAM train them: a name has to be given."""

from __future__ import annotations

from converters.inference.base import Inference, Tensors
from converters.inference.hints import Hints
from core.backbones import BackboneConfig
from core.errors import UserError


def _config(tensors: Tensors, hints: Hints) -> tuple[BackboneConfig, str]:
    raise UserError(
        "a ViT with relative positions (rel_pos_h) doesn't show its windows; give --arch, samvit_base_patch16 for SAM; "
        "timm has none with ViTDet's windows: take its backbone from before the detection"
    )


INFERENCE = Inference(("patch_embed.proj.weight", "blocks.0.attn.rel_pos_h"), _config)
