"""Key maps of Hugging Face's transformers, as its files have them; query, key and value stand apart in its ViTs."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from converters.key_maps.base import KeyMap

_PARTS = {"q": "query", "k": "key", "v": "value"}
_EMBEDDINGS = (
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.{}", "embeddings.patch_embeddings.projection.{}"),
)
_ATTENTION = (
    *((f"blocks.{{}}.attn.{ours}.{{}}", f"encoder.layer.{{}}.attention.attention.{theirs}.{{}}")
      for ours, theirs in _PARTS.items()),
    ("blocks.{}.attn.proj.{}", "encoder.layer.{}.attention.output.dense.{}"),
)  # fmt: skip

RESNET = KeyMap(
    "transformers' ResNet",
    "encoder.stages.0.layers.0.layer.0.convolution.weight",
    "embedder.embedder.",
    templates=(
        ("conv1.{}", "embedder.embedder.convolution.{}"),
        ("bn1.{}", "embedder.embedder.normalization.{}"),
        *(
            (f"layer{stage + 1}.{{}}.{ours}", f"encoder.stages.{stage}.layers.{{}}.{theirs}")
            for stage in (0, 1, 2, 3)
            for ours, theirs in (
                ("downsample.0.{}", "shortcut.convolution.{}"),
                ("downsample.1.{}", "shortcut.normalization.{}"),
                *((f"conv{n + 1}.{{}}", f"layer.{n}.convolution.{{}}") for n in (0, 1, 2)),
                *((f"bn{n + 1}.{{}}", f"layer.{n}.normalization.{{}}") for n in (0, 1, 2)),
            )
        ),
    ),
)

VIT = KeyMap(
    "transformers' ViT",
    "encoder.layer.0.layernorm_before.weight",
    "embeddings.patch_embeddings.",
    templates=(
        *_EMBEDDINGS,
        *_ATTENTION,
        ("blocks.{}.norm1.{}", "encoder.layer.{}.layernorm_before.{}"),
        ("blocks.{}.norm2.{}", "encoder.layer.{}.layernorm_after.{}"),
        ("blocks.{}.mlp.fc1.{}", "encoder.layer.{}.intermediate.dense.{}"),
        ("blocks.{}.mlp.fc2.{}", "encoder.layer.{}.output.dense.{}"),
        ("norm.{}", "layernorm.{}"),
    ),
)

_DINOV2 = (
    *_EMBEDDINGS,
    ("reg_token", "embeddings.register_tokens"),
    *_ATTENTION,
    ("blocks.{}.norm{}.{}", "encoder.layer.{}.norm{}.{}"),
    ("blocks.{}.ls{}.gamma", "encoder.layer.{}.layer_scale{}.lambda1"),
    ("norm.{}", "layernorm.{}"),
)

DINOV2 = KeyMap(
    "transformers' DINOv2",
    "encoder.layer.0.mlp.fc1.weight",
    "embeddings.patch_embeddings.",
    templates=(*_DINOV2, ("blocks.{}.mlp.fc{}.{}", "encoder.layer.{}.mlp.fc{}.{}")),
)

DINOV2_SWIGLU = KeyMap(
    "transformers' DINOv2 with SwiGLU",
    "encoder.layer.0.mlp.weights_in.weight",
    "embeddings.patch_embeddings.",
    templates=(
        *_DINOV2,
        ("blocks.{}.mlp.fc1.{}", "encoder.layer.{}.mlp.weights_in.{}"),
        ("blocks.{}.mlp.fc2.{}", "encoder.layer.{}.mlp.weights_out.{}"),
    ),
)


def split_attention(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`attn.qkv` of timm's names, weights [3·D, D] and biases [3·D], as `attn.q`, `attn.k` and `attn.v`."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"(.*\.attn)\.qkv\.(\w+)", name):
            found |= {f"{match[1]}.{part}.{match[2]}": x for part, x in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            found[name] = tensor
    return found


def join_attention(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of `split_attention`."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := re.fullmatch(r"(.*\.attn)\.([qkv])\.(\w+)", name):
            parts = [tensors[f"{match[1]}.{part}.{match[3]}"] for part in "qkv"]
            found[f"{match[1]}.qkv.{match[3]}"] = torch.cat(parts)
        else:
            found[name] = tensor
    return found
