"""Key maps of ViTs that share most of timm's names: DINOv3's own and BEiT's."""

from __future__ import annotations

from converters.key_maps.base import IDENTITY, MASKED, ON_TOP, KeyMap
from converters.key_maps.fusing import share_relative_positions, split_qkv_bias

_ROTARY = {r"rope_embed\.periods": "fixed periods of rotary embeddings"}
_LOCAL = {r"local_cls_norm\.": "norm of the class token of local crops"}

DINOV3 = KeyMap(
    "DINOv3's ViT",
    "storage_tokens",
    "rope_embed.",
    templates=(
        ("reg_token", "storage_tokens"),
        ("blocks.{}.gamma_{}", "blocks.{}.ls{}.gamma"),
        ("blocks.{}.mlp.fc1_g.{}", "blocks.{}.mlp.w1.{}"),
        ("blocks.{}.mlp.fc1_x.{}", "blocks.{}.mlp.w2.{}"),
        ("blocks.{}.mlp.fc2.{}", "blocks.{}.mlp.w3.{}"),
        *IDENTITY,
    ),
    heads={**ON_TOP, **MASKED, **_ROTARY, **_LOCAL},
    adapt=split_qkv_bias,
    args={"global_pool": "token"},
)


BEIT = KeyMap(
    "BEiT's ViT",
    "blocks.0.attn.q_bias",
    "patch_embed.proj.",
    heads={
        **ON_TOP,
        **MASKED,
        r"(.*\.)?relative_position_index": "fixed numbers of relative positions",
        r"(lm_head|cls_pt_layers)\.": "head of masked image modelling",
    },
    adapt=share_relative_positions,
)

KEY_MAPS = (BEIT, DINOV3)
