"""timm's plain Vision Transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.backbones import timm_models
from core.backbones.base import BackboneConfig, DenseMap, Family, LayerGroups, Pooling, Tokens
from core.backbones.positions import set_rule
from core.errors import UserError

_ABOVE_THE_BLOCKS = ("norm", "fc_norm", "attn_pool")
_UNDECAYED = frozenset({"cls_token", "pos_embed", "reg_token"})


class TimmVit(Family):
    """Class token, mean patch token (through `fc_norm`, where the network has it) or both; one map per block.

    Networks that end in attention pooling (SigLIP) have its output by default, distilled ones (DeiT) the mean of class
    and distillation token, as in timm. Images may have any size that the patch
    size divides: position embeddings are interpolated (core/backbones/positions.py).
    """

    title = "timm's plain ViTs"
    noun = "a ViT"
    vector_name = "class token"
    architecture = "vit"
    dense = "patches"
    parity_tolerance = 1e-5

    def builds(self, name: str) -> bool:
        return timm_models.module_of(name) in timm_models.VIT_MODULES

    def names(self) -> list[str]:
        return timm_models.names_in(*timm_models.VIT_MODULES)

    def matches(self, model: nn.Module) -> bool:
        from timm.models.vision_transformer import VisionTransformer

        return isinstance(model, VisionTransformer)

    def build(self, config: BackboneConfig, drop_path: float) -> nn.Module:
        from timm.models.vision_transformer import VisionTransformer

        args = dict(config.args)
        convolutions = args.pop("conv_stem", False)
        plain = dataclasses.replace(config, args=args)
        model = timm_models.create(plain, drop_path, VisionTransformer, dynamic_img_size=True)
        if convolutions:
            _convolve(model, config.in_chans)
        if config.stem != "imagenet":
            raise UserError(f"backbone.stem={config.stem} is for ResNets; {config.name} has patches")
        set_rule(model, config.pos_resize)
        return model

    def poolings(self, model: Any) -> tuple[Pooling, ...]:
        pooled: tuple[Pooling, ...] = () if model.attn_pool is None else ("map",)
        if model.cls_token is None:
            return (*pooled, "patches")
        if hasattr(model, "dist_token"):
            return ("avg", "cls", "patches", "cls+patches")
        if pooled:
            return ("map", "cls", "patches", "cls+patches")
        # The head of a network with `fc_norm` sees the mean patch token, as a fine-tuned MAE's does.
        return ("patches", "cls", "cls+patches") if model.global_pool == "avg" else ("cls", "patches", "cls+patches")

    def width(self, model: Any, pooling: Pooling, side: int | None) -> int:
        return int(model.num_features) * (2 if pooling == "cls+patches" else 1)

    def vector(self, model: Any, images: Tensor, pooling: Pooling) -> Tensor:
        pooling = self.resolve_pooling(model, pooling)
        if pooling == "avg":
            return model.forward_head(model.forward_features(images), pre_logits=True)
        if pooling == "map":
            return model.fc_norm(model.attn_pool(model.forward_features(images)))
        return self.head_vector(model, images, int(pooling != "patches"), pooling != "cls")

    def blocks(self, model: Any) -> int:
        return len(model.blocks)

    def head_vector(self, model: Any, images: Tensor, blocks: int, patches: bool) -> Tensor:
        if blocks <= 1:  # the last block's tokens are the model's output
            tokens = model.forward_features(images)
            parts = [tokens[:, 0]] if blocks else []
            mean = [model.fc_norm(tokens[:, model.num_prefix_tokens :].mean(dim=1))] if patches else []
            return torch.cat(parts + mean, dim=1)
        outputs = model.forward_intermediates(
            images, indices=blocks, return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
        )
        parts = [prefix[:, 0] for _, prefix in outputs]
        return torch.cat([*parts, model.fc_norm(outputs[-1][0].mean(1))] if patches else parts, dim=1)

    def tokens(self, model: Any, images: Tensor) -> Tokens:
        sequence, prefix = model.forward_features(images), model.num_prefix_tokens
        height, width = model.patch_embed.dynamic_feat_size(images.shape[-2:])
        return Tokens(sequence[:, :prefix], sequence[:, prefix:], (int(height), int(width)))

    def maps(self, model: Any, images: Tensor, taps: Sequence[int] | None = None) -> list[tuple[int, Tensor]]:
        taps = range(len(model.blocks)) if taps is None else taps
        stride = self.input_multiple(model)[0]
        return [(stride, map_) for map_ in timm_models.intermediates(model, images, taps)]

    def channels(self, model: Any) -> list[int]:
        return [int(model.embed_dim)] * len(model.blocks)

    def dense_maps(self, model: Any, images: Tensor, taps: Sequence[int], norm: bool) -> list[DenseMap]:
        if model.cls_token is None:  # without any prefix token timm gives maps alone, whatever is asked for
            return [DenseMap(map_, None) for map_ in timm_models.intermediates(model, images, taps, norm)]
        found = timm_models.intermediates(model, images, taps, norm, return_prefix_tokens=True)
        return [DenseMap(map_, prefix[:, 0]) for map_, prefix in found]

    def layer_groups(self, model: Any) -> LayerGroups:
        """Embeddings are layer 0, block i is layer i + 1, the final norm is the heads' (BEiT, arXiv 2106.08254, H)."""
        top = len(model.blocks) + 1
        return LayerGroups({name: _layer(name, top) for name, _ in model.named_parameters()}, top, _UNDECAYED)

    def input_multiple(self, model: Any) -> tuple[int, int]:
        height, width = model.patch_embed.feat_ratio(as_scalar=False)
        return int(height), int(width)

    def image_side(self, model: Any) -> int | None:
        return int(model.patch_embed.img_size[0])


def _convolve(vit: Any, channels: int) -> None:
    """Replaces the patch projection by four convolutions of stride 2 and one of 1×1 (MoCo v3; arXiv 2106.14881)."""
    width = int(vit.embed_dim)
    if int(vit.patch_embed.patch_size[0]) != 16 or width % 8:
        raise UserError("backbone.args.conv_stem is for patches of 16 pixels and widths that 8 divides; leave it out")
    layers: list[nn.Module] = []
    for stage in range(4):
        into = channels if stage == 0 else width // 8 * 2 ** (stage - 1)
        out = width // 8 * 2**stage
        layers += [nn.Conv2d(into, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    vit.patch_embed.proj = nn.Sequential(*layers, nn.Conv2d(width, width, 1))


def _layer(name: str, top: int) -> int:
    part, _, rest = name.partition(".")
    if part == "blocks":
        return int(rest.partition(".")[0]) + 1
    return top if part in _ABOVE_THE_BLOCKS else 0


FAMILY = TimmVit()
