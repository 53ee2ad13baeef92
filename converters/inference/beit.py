"""BEiT and BEiT v2: relative position biases, separate biases of queries and values."""

from __future__ import annotations

import math
from typing import Any

from converters.inference.base import Inference, Tensors, changed, count
from converters.inference.hints import Hints
from core.backbones import BackboneConfig
from core.errors import UserError

_BASE = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12, "img_size": 224, "mlp_ratio": 4.0}
_LARGE = _BASE | {"embed_dim": 1024, "depth": 24, "num_heads": 16}


def _config(tensors: Tensors, hints: Hints) -> tuple[BackboneConfig, str]:
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    rows, heads = tensors["blocks.0.attn.relative_position_bias_table"].shape
    window = (math.isqrt(rows - 3) + 1) // 2
    if (2 * window - 1) ** 2 + 3 != rows:
        raise UserError(f"a table of {rows} relative positions doesn't belong to a square of patches; give --arch")
    args: dict[str, Any] = {
        "patch_size": patch, "embed_dim": width, "depth": count(tensors, r"blocks\.(\d{1,3})\."), "num_heads": heads,
        "img_size": window * patch, "mlp_ratio": tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
    }  # fmt: skip
    name, defaults = (
        ("beit_large_patch16_224", _LARGE) if width == _LARGE["embed_dim"] else ("beit_base_patch16_224", _BASE)
    )
    args = changed(args, defaults)
    if "pos_embed" in tensors:
        args["use_abs_pos_emb"] = True
    if "blocks.0.gamma_1" not in tensors:
        args["init_values"] = 0
    if "norm.weight" in tensors:
        args["global_pool"] = "token"
    elif "fc_norm.weight" not in tensors:
        args["final_norm"] = False
        return BackboneConfig(name, args), "no norm behind the blocks, as in transformers' models without a pooler"
    return BackboneConfig(name, args), ""


INFERENCE = Inference(("blocks.0.attn.relative_position_bias_table", "patch_embed.proj.weight"), _config)
