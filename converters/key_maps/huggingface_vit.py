"""Key maps of transformers' ViTs: ViT, DeiT, MAE, MSN, I-JEPA, DINOv2 with and without registers, BEiT, DINOv3."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from converters.key_maps.base import MASKED, ON_TOP, KeyMap
from converters.key_maps.fusing import fuse_qkv, share_relative_positions
from converters.key_maps.timm import fold_class_position

_LAYER = "encoder.layer.{}."
_OUTSIDE = {**ON_TOP, **MASKED, r"embeddings\.mask_token": "embedding of masked patches", r"pooler\.": "pooler"}
_COMMON = (
    ("cls_token", "embeddings.cls_token"),
    ("dist_token", "embeddings.distillation_token"),
    ("reg_token", "embeddings.register_tokens"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.{}", "embeddings.patch_embeddings.projection.{}"),
    ("blocks.{}.attn.q.{}", _LAYER + "attention.attention.query.{}"),
    ("blocks.{}.attn.k.{}", _LAYER + "attention.attention.key.{}"),
    ("blocks.{}.attn.v.{}", _LAYER + "attention.attention.value.{}"),
    ("blocks.{}.attn.proj.{}", _LAYER + "attention.output.dense.{}"),
    ("blocks.{}.mlp.fc1.{}", _LAYER + "intermediate.dense.{}"),
    ("blocks.{}.mlp.fc2.{}", _LAYER + "output.dense.{}"),
    ("blocks.{}.norm1.{}", _LAYER + "layernorm_before.{}"),
    ("blocks.{}.norm2.{}", _LAYER + "layernorm_after.{}"),
    ("norm.{}", "layernorm.{}"),
)


_DINOV2 = (
    ("blocks.{}.ls{}.gamma", _LAYER + "layer_scale{}.lambda1"),
    ("blocks.{}.norm{}.{}", _LAYER + "norm{}.{}"),
)
_MLP = (("blocks.{}.mlp.fc{}.{}", _LAYER + "mlp.fc{}.{}"),)
_SWIGLU = (
    ("blocks.{}.mlp.fc1.{}", _LAYER + "mlp.weights_in.{}"),
    ("blocks.{}.mlp.fc2.{}", _LAYER + "mlp.weights_out.{}"),
)


def _dinov2(tensors: dict[str, Tensor]) -> str:
    return "; ".join(filter(None, (fuse_qkv(tensors), fold_class_position(tensors))))


def _beit(tensors: dict[str, Tensor]) -> str:
    return "; ".join(filter(None, (fuse_qkv(tensors), share_relative_positions(tensors))))


VIT = KeyMap(
    "transformers' ViT",
    "encoder.layer.0.attention.attention.query.weight",
    "embeddings.patch_embeddings.",
    templates=_COMMON,
    heads=_OUTSIDE,
    adapt=fuse_qkv,
    args={"norm_eps": 1e-12},
    needs=("pos_embed",),
)

DINOV2 = KeyMap(
    "transformers' DINOv2",
    "encoder.layer.0.layer_scale1.lambda1",
    "embeddings.patch_embeddings.",
    templates=(*_DINOV2, *_MLP, *_SWIGLU, *_COMMON),
    heads=_OUTSIDE,
    adapt=_dinov2,
    positions="dinov2",
    needs=("pos_embed", "cls_token"),
)

DINOV2_SWIGLU = dataclasses.replace(DINOV2, templates=(*_DINOV2, *_SWIGLU, *_COMMON))
"""For writing networks with SwiGLU; `DINOV2` reads both."""

BEIT = KeyMap(
    "transformers' BEiT",
    "encoder.layer.0.lambda_1",
    "embeddings.patch_embeddings.",
    templates=(
        ("blocks.{}.attn.relative_position_bias_table",
         _LAYER + "attention.attention.relative_position_bias.relative_position_bias_table"),
        ("rel_pos_bias.relative_position_bias_table", "encoder.relative_position_bias.relative_position_bias_table"),
        ("blocks.{}.gamma_{}", _LAYER + "lambda_{}"),
        ("fc_norm.{}", "pooler.layernorm.{}"),
        *_COMMON,
    ),
    heads={**ON_TOP, r"embeddings\.mask_token": "embedding of masked patches"},
    adapt=_beit,
    args={"norm_eps": 1e-12},
)  # fmt: skip

DINOV3 = KeyMap(
    "transformers' DINOv3",
    "layer.0.attention.q_proj.weight",
    "embeddings.patch_embeddings.",
    templates=(
        ("cls_token", "embeddings.cls_token"),
        ("reg_token", "embeddings.register_tokens"),
        ("patch_embed.proj.{}", "embeddings.patch_embeddings.{}"),
        *((f"blocks.{{}}.attn.{part}.{{}}", f"layer.{{}}.attention.{part}_proj.{{}}") for part in "qkv"),
        ("blocks.{}.attn.proj.{}", "layer.{}.attention.o_proj.{}"),
        ("blocks.{}.gamma_{}", "layer.{}.layer_scale{}.lambda1"),
        ("blocks.{}.norm{}.{}", "layer.{}.norm{}.{}"),
        ("blocks.{}.mlp.fc1_g.{}", "layer.{}.mlp.gate_proj.{}"),
        ("blocks.{}.mlp.up.{}", "layer.{}.mlp.up_proj.{}"),
        ("blocks.{}.mlp.fc2.{}", "layer.{}.mlp.down_proj.{}"),
        ("norm.{}", "norm.{}"),
    ),
    heads={**ON_TOP, r"embeddings\.mask_token": "embedding of masked patches"},
    adapt=lambda tensors: _dinov3(tensors),
    args={"global_pool": "token"},
    needs=("cls_token",),
)


def _dinov3(tensors: dict[str, Tensor]) -> str:
    gated = "blocks.0.mlp.fc1_g.weight" in tensors
    for name in [name for name in tensors if ".mlp.up." in name]:
        tensors[name.replace(".up.", ".fc1_x." if gated else ".fc1.")] = tensors.pop(name)
    return fuse_qkv(tensors)


KEY_MAPS = (VIT, DINOV2, BEIT, DINOV3)
