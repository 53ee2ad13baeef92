"""Key maps of transformers' networks in stages: ResNet and RegNetX, which have the same names, and Hiera."""

from __future__ import annotations

import re

from torch import Tensor

from converters.key_maps.base import MASKED, ON_TOP, KeyMap


def _rows() -> tuple[tuple[str, str], ...]:
    rows = []
    for stage in range(4):
        ours, theirs = f"layer{stage + 1}.{{}}.", f"encoder.stages.{stage}.layers.{{}}."
        for part in range(3):
            rows.append((f"{ours}conv{part + 1}.{{}}", f"{theirs}layer.{part}.convolution.{{}}"))
            rows.append((f"{ours}bn{part + 1}.{{}}", f"{theirs}layer.{part}.normalization.{{}}"))
        rows.append((f"{ours}downsample.0.{{}}", f"{theirs}shortcut.convolution.{{}}"))
        rows.append((f"{ours}downsample.1.{{}}", f"{theirs}shortcut.normalization.{{}}"))
    return tuple(rows)


_REGNET = (
    (r"conv1\.(.*)", r"stem.conv.{}"),
    (r"bn1\.(.*)", r"stem.bn.{}"),
    (r"layer(\d+)\.(\d+)\.conv(\d)\.(.*)", r"s{}.b{}.conv{}.conv.{}"),
    (r"layer(\d+)\.(\d+)\.bn(\d)\.(.*)", r"s{}.b{}.conv{}.bn.{}"),
    (r"layer(\d+)\.(\d+)\.downsample\.0\.(.*)", r"s{}.b{}.downsample.conv.{}"),
    (r"layer(\d+)\.(\d+)\.downsample\.1\.(.*)", r"s{}.b{}.downsample.bn.{}"),
)
"""Names of timm's ResNet -> those of its RegNet, whose blocks are counted from 1."""


def _regnet(tensors: dict[str, Tensor]) -> str:
    """Gives the tensors of a RegNetX its names: the stem has 3×3 filters, where transformers' ResNets have 7×7."""
    stem = tensors.get("conv1.weight")
    if stem is None or stem.shape[-1:] != (3,):
        return ""
    for name in list(tensors):
        for theirs, ours in _REGNET:
            if match := re.fullmatch(theirs, name):
                stage, *rest = match.groups()
                block = [str(int(rest[0]) + 1), *rest[1:]] if rest else []
                tensors[ours.format(stage, *block)] = tensors.pop(name)
    return "a RegNetX, by its stem"


RESNET = KeyMap(
    "transformers' ResNet",
    "encoder.stages.0.layers.0.layer.0.convolution.weight",
    "embedder.embedder.convolution.",
    templates=(
        ("conv1.{}", "embedder.embedder.convolution.{}"),
        ("bn1.{}", "embedder.embedder.normalization.{}"),
        *_rows(),
    ),
    note="stride in the 3×3 convolution assumed",
    heads=ON_TOP,
    adapt=_regnet,
)

_LAYER = "encoder.stages.{n}.layers.{n}."
_BLOCK = "stages.{n}.blocks.{n}."


def _in_one_row(tensors: dict[str, Tensor]) -> str:
    """Numbers the blocks of all stages in one row, as timm does."""
    found = [(name, match) for name in tensors if (match := re.match(r"stages\.(\d+)\.blocks\.(\d+)\.", name))]
    places = sorted({(int(match[1]), int(match[2])) for _, match in found})
    for name, match in found:
        number = places.index((int(match[1]), int(match[2])))
        tensors[f"blocks.{number}.{name[match.end() :]}"] = tensors.pop(name)
    return ""


HIERA = KeyMap(
    "transformers' Hiera",
    "encoder.stages.0.layers.0.attn.qkv.weight",
    "embeddings.patch_embeddings.projection.",
    templates=(
        ("patch_embed.proj.{}", "embeddings.patch_embeddings.projection.{}"),
        ("pos_embed", "embeddings.position_embeddings"),
        (_BLOCK + "norm1.{}", _LAYER + "layernorm_before.{}"),
        (_BLOCK + "norm2.{}", _LAYER + "layernorm_after.{}"),
        (_BLOCK + "attn.{}.{}", _LAYER + "attn.{}.{}"),
        (_BLOCK + "mlp.{}.{}", _LAYER + "mlp.{}.{}"),
        (_BLOCK + "proj.{}", _LAYER + "proj.{}"),
        ("head.norm.{}", "pooler.layernorm.{}"),
    ),
    heads={**ON_TOP, **MASKED},
    adapt=_in_one_row,
)

KEY_MAPS = (RESNET, HIERA)
