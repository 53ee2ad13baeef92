"""Key maps of image towers: CLIP's and open_clip's own names, and transformers' CLIP and SigLIP."""

from __future__ import annotations

from torch import Tensor

from converters.key_maps.base import KeyMap
from converters.key_maps.fusing import batched, fuse_qkv

CLIP_STATISTICS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_PROJECTION = {r"(proj$|visual_projection\.)": "projection into the space shared with texts"}
_BLOCK, _LAYER = "transformer.resblocks.{}.", "encoder.layers.{}."


def _clip(tensors: dict[str, Tensor]) -> str:
    batched(tensors, cls_token=3, pos_embed=3)
    return ""


def _tower(tensors: dict[str, Tensor]) -> str:
    batched(tensors, cls_token=3, pos_embed=3)
    notes = [fuse_qkv(tensors)]
    for kind in ("weight", "bias"):
        joined = tensors.pop(f"attn_pool.in_proj_{kind}", None)
        if joined is not None:
            width = joined.shape[0] // 3
            tensors[f"attn_pool.q.{kind}"], tensors[f"attn_pool.kv.{kind}"] = (
                joined[:width].clone(),
                joined[width:].clone(),
            )
            notes.append(f"{kind} of the pooling's queries and its keys and values kept apart")
    return "; ".join(filter(None, notes))


CLIP = KeyMap(
    "CLIP's image tower",
    "transformer.resblocks.0.attn.in_proj_weight",
    "conv1.",
    templates=(
        ("cls_token", "class_embedding"),
        ("pos_embed", "positional_embedding"),
        ("patch_embed.proj.{}", "conv1.{}"),
        ("norm_pre.{}", "ln_pre.{}"),
        ("norm.{}", "ln_post.{}"),
        ("blocks.{}.norm{}.{}", _BLOCK + "ln_{}.{}"),
        ("blocks.{}.ls{}.gamma", _BLOCK + "ls_{}.gamma"),
        ("blocks.{}.attn.qkv.{}", _BLOCK + "attn.in_proj_{}"),
        ("blocks.{}.attn.proj.{}", _BLOCK + "attn.out_proj.{}"),
        ("blocks.{}.mlp.fc1.{}", _BLOCK + "mlp.c_fc.{}"),
        ("blocks.{}.mlp.fc2.{}", _BLOCK + "mlp.c_proj.{}"),
    ),
    heads=_PROJECTION,
    adapt=_clip,
    needs=("pos_embed", "cls_token", "norm_pre.weight"),
    args={"norm_eps": 1e-5},
    statistics=CLIP_STATISTICS,
)

_COMMON = (
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding.weight"),
    ("patch_embed.proj.{}", "embeddings.patch_embedding.{}"),
    ("norm_pre.{}", "pre_layrnorm.{}"),
    ("norm.{}", "post_layernorm.{}"),
    ("blocks.{}.norm{}.{}", _LAYER + "layer_norm{}.{}"),
    *((f"blocks.{{}}.attn.{part}.{{}}", f"{_LAYER}self_attn.{part}_proj.{{}}") for part in "qkv"),
    ("blocks.{}.attn.proj.{}", _LAYER + "self_attn.out_proj.{}"),
    ("blocks.{}.mlp.{}.{}", _LAYER + "mlp.{}.{}"),
)
_IDS = {r"embeddings\.position_ids": "numbers of the positions"}

TOWER = KeyMap(
    "transformers' CLIP",
    "encoder.layers.0.self_attn.q_proj.weight",
    "embeddings.patch_embedding.",
    templates=_COMMON,
    heads={**_IDS, **_PROJECTION},
    adapt=_tower,
    needs=("pos_embed", "cls_token", "norm_pre.weight"),
    args={"norm_eps": 1e-5},
    statistics=CLIP_STATISTICS,
)

SIGLIP_WITHOUT_HEAD = KeyMap(
    "transformers' SigLIP without a head",
    "embeddings.patch_embedding.bias",
    "encoder.layers.0.self_attn.",
    templates=_COMMON,
    heads=_IDS,
    adapt=_tower,
    args={"act_layer": "gelu_tanh"},
    statistics=_HALVES,
    needs=("pos_embed",),
)

SIGLIP = KeyMap(
    "transformers' SigLIP",
    "head.probe",
    "embeddings.patch_embedding.",
    templates=(
        *_COMMON,
        ("attn_pool.latent", "head.probe"),
        ("attn_pool.in_proj_{}", "head.attention.in_proj_{}"),
        ("attn_pool.proj.{}", "head.attention.out_proj.{}"),
        ("attn_pool.norm.{}", "head.layernorm.{}"),
        ("attn_pool.mlp.{}.{}", "head.mlp.{}.{}"),
    ),
    heads=_IDS,
    adapt=_tower,
    args={"act_layer": "gelu_tanh"},
    statistics=_HALVES,
    needs=("pos_embed",),
)

KEY_MAPS = (CLIP, TOWER, SIGLIP_WITHOUT_HEAD, SIGLIP)
