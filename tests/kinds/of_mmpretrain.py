"""Files in MMPretrain's layouts, around timm's networks of the same classes."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tests.kinds.base import Kind
from tests.kinds.of_layouts import BEIT, CONVNEXT, LARGE, SCALED_VIT, SWIN, VIT, State, below, head, layout, renamed


def _vit(state: State) -> State:
    return renamed(
        state, (r"patch_embed\.proj", "patch_embed.projection"), (r"^blocks", "layers"), (r"^norm\.", "ln1."),
        (r"^fc_norm\.", "ln2."), (r"\.norm(\d)", r".ln\1"), (r"mlp\.fc1", "ffn.layers.0.0"),
        (r"mlp\.fc2", "ffn.layers.1"), (r"ls1\.gamma", "attn.gamma1.weight"), (r"ls2\.gamma", "ffn.gamma2.weight"),
    )  # fmt: skip


def _index(state: State) -> State:
    return state | {"layers.0.attn.relative_position_index": torch.zeros(5, 5, dtype=torch.long)}


def _unfolded(tensor: Tensor) -> Tensor:
    """timm's columns for merged neighbours in the order of nn.Unfold, with which MMPretrain merges them."""
    channels = tensor.shape[-1] // 4
    places = torch.empty(1, channels, 2, 2)
    for number, (row, column) in enumerate(((0, 0), (1, 0), (0, 1), (1, 1))):  # timm's order
        places[0, :, row, column] = torch.arange(channels) + number * channels
    return tensor[..., functional.unfold(places, 2, stride=2)[0, :, 0].long()]


def _swin(state: State) -> State:
    own = {}
    for name, tensor in state.items():
        if match := re.match(r"layers\.(\d)\.downsample\.(.*)", name):
            own[f"stages.{int(match[1]) - 1}.downsample.{match[2]}"] = _unfolded(tensor)
        else:
            own[name] = tensor.clone()
    return renamed(
        own, (r"patch_embed\.proj", "patch_embed.projection"), (r"^layers", "stages"), (r"\.attn\.", ".attn.w_msa."),
        (r"mlp\.fc1", "ffn.layers.0.0"), (r"mlp\.fc2", "ffn.layers.1"), (r"^norm\.", "norm3."),
    ) | {"stages.0.blocks.0.attn.w_msa.relative_position_index": torch.zeros(4, 4, dtype=torch.long)}  # fmt: skip


def _convnext(state: State) -> State:
    return renamed(
        state, (r"^stem\.", "downsample_layers.0."), (r"stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
        (r"stages\.(\d)\.blocks\.", r"stages.\1."), ("conv_dw", "depthwise_conv"), (r"mlp\.fc", "pointwise_conv"),
        (r"^head\.norm", "norm3"),
    )  # fmt: skip


def _classifier(state: State) -> dict[str, Any]:
    return {"meta": {}, "state_dict": below("backbone.", state) | {"head.fc.weight": torch.randn(5, 8)}}


def _moco(state: State, other: State) -> dict[str, Any]:
    return {"meta": {}, "state_dict": below("backbone.", _vit(state)) | below("momentum_encoder.0.", _vit(other))}


_MOCO = ("vit_small_patch16_224", {"embed_dim": 384, "depth": 1, "num_heads": 12, "img_size": 32, "patch_size": 8})

KINDS: tuple[Kind, ...] = (
    layout(
        "MMPretrain: MAE",
        ("vit_small_patch16_224", VIT),
        lambda s, o: {"meta": {}, "state_dict": below("backbone.", _vit(s)) | head("neck.layers")},
    ),
    layout("MMPretrain: DINOv2", SCALED_VIT, lambda s, o: _classifier(_vit(s))),
    layout("MMPretrain: MoCo v3, small ViT of 12 heads", _MOCO, _moco),
    layout("MMPretrain: BEiT", BEIT, lambda s, o: _classifier(_index(_vit(s)))),
    layout("MMPretrain: Swin", SWIN, lambda s, o: _classifier(_swin(s)), images=LARGE),
    layout("MMPretrain: ConvNeXt", CONVNEXT, lambda s, o: _classifier(_convnext(s))),
)
