"""MMSegmentation's ResNet or ViT for a backbone: its names for the tensors, its settings, and the model itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from converters.engines.activations import is_gelu
from converters.engines.openmmlab import import_mmseg
from converters.key_maps.openmmlab import VIT
from core.backbones import BackboneConfig, architecture_args, describe, family_of
from core.compute.shapes import shapes_only
from core.errors import UserError

_DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101, "resnet152": 152}
FINAL_NORM = ("ln1.weight", "ln1.bias")
"""Names of a ViT's norm after the last block, not used by segmentation heads unless `final_norm` is set."""


def vit_names(config: BackboneConfig, model: Any) -> dict[str, str]:
    """timm's name -> MMSegmentation's for every tensor of a ViT. Raises `UserError` for what it has no place for."""
    vit_settings(config, model)
    return {name: str(VIT.from_timm(name)) for name in model.state_dict()}


def resnet_settings(config: BackboneConfig) -> dict[str, Any]:
    """The `backbone` of an MMSegmentation config that computes what timm's ResNet does.

    Of `style` pytorch: stride in the 3×3 convolution; `caffe` takes the same weights and is wrong. Raises `UserError`
    for a network that MMSegmentation's class can't be.
    """
    channels = config.args.get("channels", [64, 128, 256, 512])
    other = architecture_args(config).keys() - {"channels"}
    if config.name not in _DEPTHS or other or config.stem != "imagenet":
        raise UserError(
            _refusal(config, f"its ResNets are {', '.join(_DEPTHS)} with a 7×7 stem and max pooling and nothing more")
        )
    if list(channels) != [channels[0] * 2**stage for stage in range(4)]:
        raise UserError(_refusal(config, "the channels of its ResNets double from stage to stage, four times"))
    return {
        "type": "ResNet", "depth": _DEPTHS[config.name], "stem_channels": 64, "base_channels": channels[0],
        "num_stages": 4, "strides": [1, 2, 2, 2], "dilations": [1, 1, 1, 1], "out_indices": [0, 1, 2, 3],
        "style": "pytorch", "contract_dilation": True, "norm_cfg": {"type": "BN", "requires_grad": True},
        "norm_eval": False, "init_cfg": None,
    }  # fmt: skip


def vit_settings(config: BackboneConfig, model: Any) -> dict[str, Any]:
    """The same for a ViT, at its own image size and with its final norm."""
    patches, block = model.patch_embed, model.blocks[0]
    width, hidden = model.embed_dim, block.mlp.fc1.out_features
    if model.cls_token is None or model.reg_token is not None or model.no_embed_class or hidden % width:
        raise UserError(
            _refusal(config, "its ViT has one class token with a position embedding, and an MLP of a whole ratio")
        )
    left = [name for name in model.state_dict() if VIT.from_timm(name) is None]
    if left:
        raise UserError(_refusal(config, f"its ViT has no place for {left[0]}"))
    if not is_gelu(block.mlp.act):
        raise UserError(_refusal(config, f"its ViT has GELU, not {type(block.mlp.act).__name__}"))
    if block.attn.qkv.bias is None or patches.proj.bias is None or not isinstance(model.norm, nn.LayerNorm):
        raise UserError(_refusal(config, "its ViT has biases everywhere and a final norm"))
    return {
        "type": "VisionTransformer", "img_size": list(patches.img_size), "patch_size": patches.patch_size[0],
        "embed_dims": width, "num_layers": len(model.blocks), "num_heads": block.attn.num_heads,
        "mlp_ratio": hidden // width, "out_indices": list(range(len(model.blocks))), "qkv_bias": True,
        "drop_path_rate": 0.0, "with_cls_token": True, "norm_cfg": {"type": "LN", "eps": model.norm.eps},
        "act_cfg": {"type": "GELU"}, "patch_bias": True, "final_norm": True, "interpolate_mode": "bicubic",
    }  # fmt: skip


def dilate(settings: dict[str, Any]) -> dict[str, Any]:
    """The same ResNet at output stride 8: dilation for the strides of the last two stages."""
    return settings | {"strides": [1, 2, 1, 1], "dilations": [1, 1, 2, 4]}


def wrapped_settings(config: BackboneConfig, model: Any) -> dict[str, Any]:
    """The `backbone` of an MMSegmentation config for timm's own network with all its maps, in a `TIMMBackbone`.

    Raises `UserError` for a network that `timm.create_model(config.name, …)` does not build.
    """
    import timm

    if not timm.is_model(config.name) or config.stem != "imagenet" or config.pos_resize != "timm":
        raise UserError(_refusal(config, "its TIMMBackbone builds timm's networks without changes to them"))
    family = family_of(model)
    any_size = {}
    if getattr(model, "dynamic_img_size", False):  # asked of the constructor under one of two names
        strict = "strict_img_size" in inspect.signature(type(model).__init__).parameters
        any_size = {"strict_img_size": False} if strict else {"dynamic_img_size": True}
    count, known = len(family.channels(model)), len(model.feature_info)  # timm's may begin with the stem
    return {
        # The getter gives maps with channels first for every network, the default follows timm's (Swin's: last).
        "type": "TIMMBackbone", "model_name": config.name, "features_only": True, "feature_cls": "getter",
        "pretrained": False, "in_channels": config.in_chans, "out_indices": list(range(known - count, known)),
        **any_size,
        **{key: value for key, value in config.args.items() if key != "in_chans"}, "init_cfg": None,
    }  # fmt: skip


def wrapped_names(config: BackboneConfig, model: Any) -> dict[str, str]:
    """timm's name -> the name in a `TIMMBackbone`, for the tensors that it has: none behind the last map."""
    import timm

    settings = wrapped_settings(config, model)
    for key in ("type", "model_name", "in_channels", "init_cfg"):
        settings.pop(key)
    with shapes_only():
        wrapped = timm.create_model(config.name, in_chans=config.in_chans, **settings).state_dict()
    names = {name: f"timm_model.model.{name}" for name in model.state_dict() if f"model.{name}" in wrapped}
    if len(names) != len(wrapped):
        raise UserError(_refusal(config, "timm's network for feature maps has other tensors than the whole one"))
    return names


def _refusal(config: BackboneConfig, why: str) -> str:
    return f"MMSegmentation has no {describe(config)}: {why}; convert --to timm instead"


def mmseg_model(settings: Mapping[str, Any]) -> nn.Module:
    """MMSegmentation's backbone of one of the settings above, with random weights."""
    import_mmseg()
    from mmseg.registry import MODELS

    return MODELS.build(dict(settings))
