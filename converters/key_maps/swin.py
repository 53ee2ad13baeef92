"""Key maps of Swin Transformers: timm's, their authors' (EsViT and SimMIM too), transformers' and torchvision's."""

from __future__ import annotations

import re

from torch import Tensor

from converters.key_maps.base import IDENTITY, MASKED, ON_TOP, KeyMap
from converters.key_maps.fusing import fuse_qkv

_FIXED = {
    r"(.*\.)?(relative_position_index|relative_coords_table|attn_mask)$": "fixed numbers of relative positions",
}
_HEADS = {**ON_TOP, **MASKED, **_FIXED}


def _shift(tensors: dict[str, Tensor]) -> str:
    """timm's stages begin with the downsampling that others' end with."""
    if not any(name.startswith("layers.0.downsample.") for name in tensors):
        return ""
    moved = {name: tensors.pop(name) for name in list(tensors) if re.match(r"layers\.\d+\.downsample\.", name)}
    for name, tensor in moved.items():
        tensors[re.sub(r"layers\.(\d+)", lambda match: f"layers.{int(match[1]) + 1}", name)] = tensor
    return "downsampling counted with the stage after it"


def _transformers(tensors: dict[str, Tensor]) -> str:
    return "; ".join(filter(None, (fuse_qkv(tensors), _shift(tensors))))


TIMM = KeyMap(
    "Swin",
    "layers.0.blocks.0.attn.relative_position_bias_table",
    "patch_embed.proj.",
    templates=IDENTITY,
    heads=_HEADS,
    adapt=_shift,
)
V2 = KeyMap(
    "Swin v2",
    "layers.0.blocks.0.attn.logit_scale",
    "patch_embed.proj.",
    templates=IDENTITY,
    heads=_HEADS,
    adapt=_shift,
)

_BLOCK = "encoder.layers.{}.blocks.{}."
_OURS = "layers.{}.blocks.{}."
TRANSFORMERS = KeyMap(
    "transformers' Swin",
    "encoder.layers.0.blocks.0.attention.self.query.weight",
    "embeddings.patch_embeddings.",
    templates=(
        ("patch_embed.proj.{}", "embeddings.patch_embeddings.projection.{}"),
        ("patch_embed.norm.{}", "embeddings.norm.{}"),
        (_OURS + "attn.q.{}", _BLOCK + "attention.self.query.{}"),
        (_OURS + "attn.k.{}", _BLOCK + "attention.self.key.{}"),
        (_OURS + "attn.v.{}", _BLOCK + "attention.self.value.{}"),
        (_OURS + "attn.cpb_mlp.{}.{}", _BLOCK + "attention.self.continuous_position_bias_mlp.{}.{}"),
        (_OURS + "attn.{}", _BLOCK + "attention.self.{}"),
        (_OURS + "attn.proj.{}", _BLOCK + "attention.output.dense.{}"),
        (_OURS + "norm1.{}", _BLOCK + "layernorm_before.{}"),
        (_OURS + "norm2.{}", _BLOCK + "layernorm_after.{}"),
        (_OURS + "mlp.fc1.{}", _BLOCK + "intermediate.dense.{}"),
        (_OURS + "mlp.fc2.{}", _BLOCK + "output.dense.{}"),
        ("layers.{}.downsample.{}.{}", "encoder.layers.{}.downsample.{}.{}"),
        ("norm.{}", "layernorm.{}"),
    ),
    heads={
        **ON_TOP,
        r"embeddings\.mask_token": "embedding of masked patches",
        r"pooler\.": "pooler",
        r"(.*\.)?(relative_position_index|relative_coords_table)$": "fixed numbers of relative positions",
    },
    adapt=_transformers,
)

TORCHVISION = KeyMap(
    "torchvision's Swin",
    "features.1.0.attn.relative_position_bias_table",
    "features.0.0.",
    templates=(
        ("patch_embed.proj.{}", "features.0.0.{}"),
        ("patch_embed.norm.{}", "features.0.2.{}"),
        *(
            row
            for stage in range(4)
            for row in (
                (f"layers.{stage}.blocks.{{}}.mlp.fc1.{{}}", f"features.{2 * stage + 1}.{{}}.mlp.0.{{}}"),
                (f"layers.{stage}.blocks.{{}}.mlp.fc2.{{}}", f"features.{2 * stage + 1}.{{}}.mlp.3.{{}}"),
                (f"layers.{stage}.blocks.{{}}.norm{{}}.{{}}", f"features.{2 * stage + 1}.{{}}.norm{{}}.{{}}"),
                (f"layers.{stage}.blocks.{{}}.attn.{{}}.{{}}", f"features.{2 * stage + 1}.{{}}.attn.{{}}.{{}}"),
                (
                    f"layers.{stage}.blocks.{{}}.attn.relative_position_bias_table",
                    f"features.{2 * stage + 1}.{{}}.attn.relative_position_bias_table",
                ),
                (f"layers.{stage}.downsample.{{}}.{{}}", f"features.{2 * stage}.{{}}.{{}}"),
            )
        ),
        ("norm.{}", "norm.{}"),
    ),
    heads=_HEADS,
)

KEY_MAPS = (TIMM, V2, TRANSFORMERS, TORCHVISION)
