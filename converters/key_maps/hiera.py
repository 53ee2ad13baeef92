"""Key map of transformers' Hiera, whose blocks are counted anew in each stage."""

from __future__ import annotations

import re

from torch import Tensor

from converters.key_maps.base import MASKED, ON_TOP, KeyMap

_LAYER = "encoder.stages.{n}.layers.{n}."
_OURS = "stages.{n}.blocks.{n}."


def _in_one_row(tensors: dict[str, Tensor]) -> str:
    """Numbers the blocks of all stages in one row, as timm does."""
    found = [(name, match) for name in tensors if (match := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", name))]
    places = sorted({(int(match[1]), int(match[2])) for _, match in found})
    for name, match in found:
        number = places.index((int(match[1]), int(match[2])))
        tensors[f"blocks.{number}.{name[match.end() :]}"] = tensors.pop(name)
    return ""


TRANSFORMERS = KeyMap(
    "transformers' Hiera",
    "encoder.stages.0.layers.0.attn.qkv.weight",
    "embeddings.patch_embeddings.projection.",
    templates=(
        ("patch_embed.proj.{}", "embeddings.patch_embeddings.projection.{}"),
        ("pos_embed", "embeddings.position_embeddings"),
        (_OURS + "norm1.{}", _LAYER + "layernorm_before.{}"),
        (_OURS + "norm2.{}", _LAYER + "layernorm_after.{}"),
        (_OURS + "attn.{}.{}", _LAYER + "attn.{}.{}"),
        (_OURS + "mlp.{}.{}", _LAYER + "mlp.{}.{}"),
        (_OURS + "proj.{}", _LAYER + "proj.{}"),
        ("head.norm.{}", "pooler.layernorm.{}"),
    ),
    heads={**ON_TOP, **MASKED},
    adapt=_in_one_row,
)

KEY_MAPS = (TRANSFORMERS,)
