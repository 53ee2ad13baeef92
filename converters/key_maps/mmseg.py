"""Key map of MMSegmentation's ViT; MMPretrain's differs in the attention alone."""

from __future__ import annotations

from converters.key_maps.base import MASKED, ON_TOP, KeyMap

COMMON = (
    ("cls_token", "cls_token"),
    ("pos_embed", "pos_embed"),
    ("patch_embed.proj.{}", "patch_embed.projection.{}"),
    ("blocks.{}.norm{}.{}", "layers.{}.ln{}.{}"),
    ("blocks.{}.mlp.fc1.{}", "layers.{}.ffn.layers.0.0.{}"),
    ("blocks.{}.mlp.fc2.{}", "layers.{}.ffn.layers.1.{}"),
    ("norm.{}", "ln1.{}"),
)
ASSUMED = "layer norms with eps 1e-6 assumed"
_OUTSIDE = {**ON_TOP, **MASKED}

VIT = KeyMap(
    "MMSegmentation's ViT",
    "layers.0.attn.attn.in_proj_weight",
    "patch_embed.projection.",
    templates=(
        *COMMON,
        ("blocks.{}.attn.qkv.{}", "layers.{}.attn.attn.in_proj_{}"),
        ("blocks.{}.attn.proj.{}", "layers.{}.attn.attn.out_proj.{}"),
    ),
    note=ASSUMED,
    heads=_OUTSIDE,
    positions="bicubic",
)

KEY_MAPS = (VIT,)
