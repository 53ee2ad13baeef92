"""Backbones: a timm ResNet or ViT by name, how its input is normalised, and the features it gives."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Pooling = Literal["auto", "avg", "cls", "patches", "cls+patches"]


@dataclass(frozen=True)
class BackboneConfig:
    name: str = "resnet50"
    """timm's name of a ResNet or a Vision Transformer, without a weights tag."""
    args: dict[str, Any] = field(default_factory=dict)
    """Further arguments of timm's model, e.g. `channels: [16, 32, 64, 128]` for a quarter-width ResNet."""
    stem: Literal["imagenet", "small", "small_padded"] = "imagenet"
    """ResNet only. `small`: 3×3 convolution of stride 1 without max pooling, for images of about 32 px;
    `small_padded`: the same with a border of 2 instead of 1 pixels, as solo-learn trains it."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Per-channel mean (RGB, image values in 0 … 1) that is subtracted from the input."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Per-channel standard deviation (RGB) by which the input is divided."""

    def __post_init__(self) -> None:
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive in every channel, not {self.std}")
        if "." in self.name:
            raise ValueError(f"name must be an architecture without a weights tag, not {self.name}")


@dataclass(frozen=True)
class Backbone:
    """The unit of exchange: a network in timm's key names, and where it came from."""

    config: BackboneConfig
    model: nn.Module
    source: str
    """What the user gave, and what was recognised in it."""
    origin: dict[str, str] = field(default_factory=dict)
    """Facts for the result file: network, method, epoch, file digest."""


# What timm takes beside a model's own arguments: a file of weights, a place to fetch them from, another kind of model.
_NOT_OF_THE_MODEL = {
    *("model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "checkpoint_path"),
    *("pretrained_filter_fn", "cache_dir", "scriptable", "exportable", "no_jit", "feature_cfg", "features_only"),
    *("out_indices", "kwargs_filter", "num_classes", "drop_path_rate", "in_chans"),
}
_MOST_BLOCKS = 1000
"""Deeper networks would be built for minutes before anything could be said about them."""


_OF_THE_START = {"zero_init_last"}


def architecture_args(config: BackboneConfig) -> dict[str, Any]:
    """The arguments that shape the network, without those that only say how its weights start."""
    return {key: value for key, value in config.args.items() if key not in _OF_THE_START}


def build_backbone(config: BackboneConfig, drop_path: float = 0.0) -> nn.Module:
    """A randomly initialised timm model without a classification head (torch's global RNG).

    ResNets start as timm has it, with the last norm of each block zeroed, as in the published code of BYOL, SimSiam and
    MoCo v3 (`zero_init_last: false` in `args` gives torchvision's start). ViTs take images of any size
    that the patch size divides (position embeddings are interpolated). `drop_path`: stochastic depth rate.
    Raises `UserError` for a name that timm lacks or that is neither a ResNet nor a plain ViT.
    """
    import timm
    from timm.models.resnet import ResNet
    from timm.models.vision_transformer import VisionTransformer

    if not timm.is_model(config.name):
        close = difflib.get_close_matches(config.name, timm.list_models(), n=3)
        raise UserError(f"timm has no model {config.name!r}" + (f"; close names: {', '.join(close)}" if close else ""))
    family = timm.models.model_entrypoint(config.name).__module__.rsplit(".", 1)[-1]
    if family not in ("resnet", "vision_transformer"):
        raise UserError(f"{config.name} is of timm's family {family}; backbones here are ResNets or plain ViTs")
    if refused := sorted(_NOT_OF_THE_MODEL & config.args.keys()):
        raise UserError(f"backbone.args may only shape the network, {refused[0]} does not; leave it out")
    if (depth := _blocks(config.args)) > _MOST_BLOCKS:
        raise UserError(f"backbone.args ask for {depth} blocks of {config.name}; at most {_MOST_BLOCKS} are built")
    defaults: dict[str, Any] = {} if family == "resnet" else {"dynamic_img_size": True}
    try:
        model = timm.create_model(
            config.name, pretrained=False, num_classes=0, drop_path_rate=drop_path, **(defaults | config.args)
        )
    except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError, LookupError, ArithmeticError,
            MemoryError, NotImplementedError) as error:  # fmt: skip
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"backbone.args {config.args} don't fit {config.name}: {reason}") from None
    if not isinstance(model, ResNet | VisionTransformer):
        raise UserError(f"{config.name} is a {type(model).__name__}; backbones here are ResNets or plain ViTs")
    if config.stem != "imagenet":
        if not isinstance(model, ResNet):
            raise UserError(f"backbone.stem={config.stem} is for ResNets; {config.name} has patches")
        _shrink_stem(model, padding=2 if config.stem == "small_padded" else 1)
    return model


def _blocks(args: dict[str, Any]) -> int:
    layers = args.get("layers")
    numbers = [args.get("depth"), *(layers if isinstance(layers, list | tuple) else ())]
    return sum(number for number in numbers if isinstance(number, int))


def _shrink_stem(resnet: Any, padding: int) -> None:
    resnet.conv1 = nn.Conv2d(3, resnet.bn1.num_features, 3, stride=1, padding=padding, bias=False)
    nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")
    resnet.maxpool = nn.Identity()


class RawPixels(nn.Module):
    """The baseline without a network: the normalised image itself, flattened, is the feature."""

    def forward_features(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 3·H·W]."""
        return images.flatten(1)

    forward = forward_features


def is_vit(model: nn.Module) -> bool:
    """Whether the backbone gives a token sequence rather than a feature map."""
    return hasattr(model, "patch_embed")


def feature_width(model: Any, pooling: Pooling = "auto") -> int:
    """Length of the vectors that `pooled_features` gives; a network's only, raw pixels have the image's size."""
    return int(model.num_features) * (2 if pooling == "cls+patches" else 1)


def pooled_features(model: Any, images: Tensor, pooling: Pooling = "auto") -> Tensor:
    """One vector per image: [B, 3, H, W] normalised floats -> [B, feature_width(model, pooling)].

    `avg` (ResNet): mean over positions. `cls`: the class token after the final norm; `patches`: the mean patch
    token; `cls+patches`: both, concatenated. `auto`: `avg` for ResNets; for ViTs `cls`, or `patches` where the
    model has no class token. Raw pixels know only `auto`. Raises `UserError` where the pooling doesn't exist for the
    model.
    """
    if isinstance(model, RawPixels):
        if pooling != "auto":
            raise UserError(f"pooling {pooling} is for networks; raw pixels have only auto")
        return model(images)
    if not is_vit(model):
        if pooling not in ("auto", "avg"):
            raise UserError(f"pooling {pooling} is for ViTs; a ResNet has only avg")
        return model.forward_features(images).mean(dim=(2, 3))
    if pooling == "auto":
        pooling = "cls" if model.cls_token is not None else "patches"
    if pooling == "avg":
        raise UserError("pooling avg is for ResNets; a ViT has cls, patches and cls+patches")
    if pooling != "patches" and model.cls_token is None:
        raise UserError(f"pooling {pooling} needs a class token, which this ViT lacks; use patches")
    tokens = model.forward_features(images)
    parts = []
    if pooling != "patches":
        parts.append(tokens[:, 0])
    if pooling != "cls":
        parts.append(tokens[:, model.num_prefix_tokens :].mean(dim=1))
    return torch.cat(parts, dim=1)


def describe(config: BackboneConfig) -> str:
    """One line for plans and tables, e.g. `resnet18(channels=[16, 32, 64, 128], stem=small)`."""
    extras = [f"{key}={value}" for key, value in config.args.items()]
    if config.stem != "imagenet":
        extras.append(f"stem={config.stem}")
    return config.name + (f"({', '.join(extras)})" if extras else "")


def to_metadata(config: BackboneConfig) -> dict[str, Any]:
    """Plain values of the config for a file's header."""
    return dataclasses.asdict(config)
