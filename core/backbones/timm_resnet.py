"""timm's ResNets, also with the 3×3 stem for small images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from core.backbones import timm_models
from core.backbones.base import BackboneConfig, Family, Pooling
from core.errors import UserError


class TimmResNet(Family):
    """One vector by average pooling; one map per stage.

    ResNets start as in timm, with the last norm of each block zeroed, as in the published code of BYOL, SimSiam and
    MoCo v3 (`zero_init_last: false` in `args` gives torchvision's start).
    """

    title = "timm's ResNets"
    noun = "a ResNet"
    vector_name = "average pool"
    architecture = "resnet"
    dense = "stages"

    def builds(self, name: str) -> bool:
        return timm_models.module_of(name) in timm_models.RESNET_MODULES

    def names(self) -> list[str]:
        return timm_models.names_in(*timm_models.RESNET_MODULES)

    def matches(self, model: nn.Module) -> bool:
        from timm.models.resnet import ResNet

        return isinstance(model, ResNet)

    def build(self, config: BackboneConfig, drop_path: float) -> nn.Module:
        from timm.models.resnet import ResNet

        if config.pos_resize != "timm":
            raise UserError(f"backbone.pos_resize={config.pos_resize} is for plain ViTs; leave it out for a ResNet")
        args = dict(config.args)
        stem = args.pop("stem_channels", None)
        model = timm_models.create(dataclasses.replace(config, args=args), drop_path, ResNet)
        if stem is not None:
            _widen_stem(model, stem)
        if config.stem != "imagenet":
            _shrink_stem(model, padding=2 if config.stem == "small_padded" else 1)
        return model

    def poolings(self, model: Any) -> tuple[Pooling, ...]:
        return ("avg",)

    def width(self, model: Any, pooling: Pooling, side: int | None) -> int:
        return int(model.num_features)

    def vector(self, model: Any, images: Tensor, pooling: Pooling) -> Tensor:
        self.resolve_pooling(model, pooling)
        return model.forward_features(images).mean(dim=(2, 3))

    def maps(self, model: Any, images: Tensor, taps: Sequence[int] | None = None) -> list[tuple[int, Tensor]]:
        stages = _stages(model)
        taps = range(len(stages)) if taps is None else taps
        found, x = [], model.maxpool(model.act1(model.bn1(model.conv1(images))))
        for stage in stages[: max(taps) + 1]:
            x = getattr(model, stage["module"])(x)
            found.append((int(stage["reduction"]), x))
        return [found[tap] for tap in taps]

    def channels(self, model: Any) -> list[int]:
        return [int(stage["num_chs"]) for stage in _stages(model)]


def _stages(model: Any) -> list[dict[str, Any]]:
    """timm's facts about each stage; those about the stem come first and are left out."""
    return [stage for stage in model.feature_info if stage["module"].startswith("layer")]


def _widen_stem(resnet: Any, channels: Any) -> None:
    """Gives the stem `channels` filters instead of 64, as the wide ResNets of SwAV and VICReg have."""
    if isinstance(channels, bool) or not isinstance(channels, int) or not 1 <= channels <= 4096:
        raise UserError(f"backbone.args.stem_channels must be 1 … 4096, not {channels!r}")
    first = resnet.layer1[0]
    if not isinstance(resnet.conv1, nn.Conv2d) or not isinstance(resnet.bn1, nn.BatchNorm2d):
        raise UserError("backbone.args.stem_channels is for ResNets with one convolution as stem; leave it out")
    resnet.conv1 = _with_channels(resnet.conv1, out=channels)
    resnet.bn1 = nn.BatchNorm2d(channels)
    first.conv1 = _with_channels(first.conv1, into=channels)
    width = first.conv3.out_channels if hasattr(first, "conv3") else first.conv2.out_channels
    if first.downsample is not None:
        first.downsample[0] = _with_channels(first.downsample[0], into=channels)
    elif width != channels:
        first.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
    if first.downsample is not None and width == channels and not hasattr(first, "conv3"):
        first.downsample = None  # the widths are the same again
    stem = [stage | {"num_chs": channels} for stage in resnet.feature_info[:1]]
    resnet.feature_info = stem + resnet.feature_info[1:]


def _with_channels(conv: Any, into: int | None = None, out: int | None = None) -> nn.Conv2d:
    """A convolution of other widths, started as timm's ResNets are."""
    made = nn.Conv2d(
        into or conv.in_channels, out or conv.out_channels, conv.kernel_size, conv.stride, conv.padding,
        bias=conv.bias is not None,
    )  # fmt: skip
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


def _shrink_stem(resnet: Any, padding: int) -> None:
    resnet.conv1 = nn.Conv2d(
        resnet.conv1.in_channels, resnet.bn1.num_features, 3, stride=1, padding=padding, bias=False
    )
    nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")
    resnet.maxpool = nn.Identity()
    # Neither the convolution nor the missing max pooling halves the map.
    resnet.feature_info = [stage | {"reduction": max(1, stage["reduction"] // 4)} for stage in resnet.feature_info]


FAMILY = TimmResNet()
