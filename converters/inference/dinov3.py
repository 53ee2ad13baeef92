"""DINOv3's ViTs: rotary embeddings without weights, register tokens, layer scale, plain or gated MLPs."""

from __future__ import annotations

from typing import Any

from converters.inference.base import Inference, Tensors, assumed_heads, changed, count
from converters.inference.hints import Hints
from core.backbones import BackboneConfig

# (width, depth, gated MLP) -> timm's name, number of heads, hidden width.
_NAMES = {
    (384, 12, False): ("vit_small_patch16_dinov3", 6, 1536),
    (384, 12, True): ("vit_small_plus_patch16_dinov3", 6, 1536),
    (768, 12, False): ("vit_base_patch16_dinov3", 12, 3072),
    (1024, 24, False): ("vit_large_patch16_dinov3", 16, 4096),
    (1280, 32, True): ("vit_huge_plus_patch16_dinov3", 20, 5120),
    (4096, 40, True): ("vit_7b_patch16_dinov3", 32, 8192),
}


def _config(tensors: Tensors, hints: Hints) -> tuple[BackboneConfig, str]:
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    depth, gated = count(tensors, r"blocks\.(\d{1,3})\."), "blocks.0.mlp.fc1_g.weight" in tensors
    hidden = tensors["blocks.0.mlp.fc1_g.weight" if gated else "blocks.0.mlp.fc1.weight"].shape[0]
    name, heads, expected = _NAMES.get((width, depth, gated), ("", 0, 0))
    args: dict[str, Any] = {}
    note = ""
    if not name or width in hints.heads:
        guessed, note = assumed_heads(width, hints.heads)
        if guessed != heads:
            args["num_heads"] = heads = guessed
    if not name:
        name = "vit_small_plus_patch16_dinov3" if gated else "vit_small_patch16_dinov3"
        args |= changed({"embed_dim": width, "depth": depth}, {"embed_dim": 384, "depth": 12})
        expected = 4 * width
    if patch != 16:
        args["patch_size"] = patch
    if hidden != expected:
        args |= {"mlp_ratio": hidden / width} | ({"swiglu_align_to": 1} if gated else {})
    registers = tensors["reg_token"].shape[1]
    if registers != 4:
        args["num_reg_tokens"] = registers
    suffix = "_qkvb" if "blocks.0.attn.q_bias" in tensors and not name.startswith("vit_7b") else ""
    return BackboneConfig(name + suffix, args), note


INFERENCE = Inference(
    ("blocks.0.gamma_1", "reg_token", "patch_embed.proj.weight"),
    _config,
    absent=("pos_embed", "blocks.0.attn.relative_position_bias_table"),
)
