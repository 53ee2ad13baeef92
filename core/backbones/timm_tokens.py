"""timm's other transformers on patch tokens: Eva (DINOv3, EVA-02, Perception Encoder), BEiT, XCiT, …"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.backbones import timm_models
from core.backbones.base import BackboneConfig, DenseMap, Family, LayerGroups, Pooling, Tokens

_ANY_SIZE = ("eva",)
"""Modules whose networks take images of any size that the patch size divides, if they are asked to."""


class TimmTokens(Family):
    """The vector that timm's own head would see, class token, mean patch token or both; one map per block.

    Images have the size of the weights, except for Eva's networks: rotary embeddings are computed for each size, and
    learned ones are interpolated.
    """

    title = "timm's other patch transformers"
    noun = "a transformer on patches"
    vector_name = "timm's pooled vector"
    architecture = "tokens"
    dense = "patches"
    parity_tolerance = 1e-5

    def builds(self, name: str) -> bool:
        return timm_models.module_of(name) in timm_models.TOKEN_MODULES

    def names(self) -> list[str]:
        return timm_models.names_in(*timm_models.TOKEN_MODULES)

    def matches(self, model: nn.Module) -> bool:
        return timm_models.module_of_class(model) in timm_models.TOKEN_MODULES

    def build(self, config: BackboneConfig, drop_path: float) -> nn.Module:
        timm_models.check_plain_config(config)
        module, args = timm_models.module_of(config.name), dict(config.args)
        any_size = {"dynamic_img_size": True} if module in _ANY_SIZE else {}
        normed = args.pop("final_norm", True) if module == "beit" else True
        model = timm_models.create(dataclasses.replace(config, args=args), drop_path, nn.Module, **any_size)
        if not normed:  # timm's BEiTs have no argument for it, as its ViTs do
            model.norm, model.fc_norm = nn.Identity(), nn.Identity()
        return model

    def poolings(self, model: Any) -> tuple[Pooling, ...]:
        pooled: tuple[Pooling, ...] = ("map",) if getattr(model, "attn_pool", None) is not None else ()
        if getattr(model, "cls_token", None) is None:
            return (*pooled, "patches")
        token = getattr(model, "global_pool", "token") == "token"
        rest: tuple[Pooling, ...] = ("cls", "patches") if token else ("patches", "cls")
        return (*pooled, *rest, "cls+patches")

    def width(self, model: Any, pooling: Pooling, side: int | None) -> int:
        return int(model.num_features) * (2 if pooling == "cls+patches" else 1)

    def vector(self, model: Any, images: Tensor, pooling: Pooling) -> Tensor:
        pooling = self.resolve_pooling(model, pooling)
        if pooling == self.poolings(model)[0]:
            return model.forward_head(model.forward_features(images), pre_logits=True)
        return self.head_vector(model, images, int(pooling != "patches"), pooling != "cls")

    def blocks(self, model: Any) -> int:
        return len(model.feature_info)

    def head_vector(self, model: Any, images: Tensor, blocks: int, patches: bool) -> Tensor:
        if blocks <= 1:
            last = self.tokens(model, images)
            parts, final = [last.prefix[:, 0]] if blocks else [], last.patches
        else:
            outputs = model.forward_intermediates(
                images, indices=blocks, return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
            )
            parts, final = [prefix[:, 0] for _, prefix in outputs], outputs[-1][0]
        mean = [_identity_or(model, "fc_norm")(final.mean(dim=1))] if patches else []
        return torch.cat([*parts, *mean], dim=1)

    def tokens(self, model: Any, images: Tensor) -> Tokens:
        sequence = model.forward_features(images)
        height, width = (side // stride for side, stride in zip(images.shape[-2:], _stride(model), strict=True))
        if sequence.ndim == 4:  # [B, h, w, D]
            height, width = sequence.shape[1:3]
            sequence = sequence.flatten(1, 2)
        prefix = int(getattr(model, "num_prefix_tokens", 0) or 0)
        assert sequence.shape[1] == prefix + height * width
        return Tokens(sequence[:, :prefix], sequence[:, prefix:], (height, width))

    def maps(self, model: Any, images: Tensor, taps: Sequence[int] | None = None) -> list[tuple[int, Tensor]]:
        taps = range(self.blocks(model)) if taps is None else taps
        found = timm_models.intermediates(model, images, taps)
        return [(int(model.feature_info[tap]["reduction"]), map_) for tap, map_ in zip(taps, found, strict=True)]

    def channels(self, model: Any) -> list[int]:
        return [int(block["num_chs"]) for block in model.feature_info]

    def dense_maps(self, model: Any, images: Tensor, taps: Sequence[int], norm: bool) -> list[DenseMap]:
        if getattr(model, "cls_token", None) is None or not _splits_tokens(model):
            return super().dense_maps(model, images, taps, norm)
        found = timm_models.intermediates(model, images, taps, norm, return_prefix_tokens=True)
        return [DenseMap(map_, prefix[:, 0]) for map_, prefix in found]

    def layer_groups(self, model: Any) -> LayerGroups:
        """timm's own groups."""
        return timm_models.layer_groups(model)

    def input_multiple(self, model: Any) -> tuple[int, int]:
        return _stride(model)

    def image_side(self, model: Any) -> int | None:
        size = getattr(model.patch_embed, "img_size", None)
        return None if size is None else int(size[0])


def _splits_tokens(model: Any) -> bool:
    """True if the network's maps come with their class and register tokens on request."""
    return "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters


def _stride(model: Any) -> tuple[int, int]:
    patch = getattr(model.patch_embed, "patch_size", None)
    if isinstance(patch, tuple | list):
        return int(patch[0]), int(patch[1])
    stride = int(model.feature_info[0]["reduction"])
    return stride, stride


def _identity_or(model: Any, name: str) -> Any:
    return getattr(model, name, None) or nn.Identity()


FAMILY = TimmTokens()
