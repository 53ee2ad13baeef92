"""Networks on a fixed scattering front: timm's ResNets with a scattering stem, and the networks of ScatSimCLR.

ScatSimCLR: arXiv 2108.13939. The stem in front of a ResNet follows Oyallon et al., arXiv 1703.08961.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from core.backbones import timm_models
from core.backbones.base import BackboneConfig, Family, Pooling
from core.backbones.scattering_front import Scattering, count_channels
from core.errors import UserError

_PREFIX = "scattering_"
_ADAPTERS = {
    "scatsimclr8": (32, ((64, 4), (128, 4))),
    "scatsimclr12": (256, ((128, 4), (64, 4), (128, 4))),
    "scatsimclr16": (256, ((128, 6), (64, 4), (128, 6))),
    "scatsimclr30": (256, ((128, 30),)),
}
"""Channels of the first convolution, then width and number of the residual blocks."""
_FRONT_ARGS = {"scales": 2, "angles": 8}
"""Defaults of the arguments of every front."""
_MAX_SCALES, _MAX_ANGLES = 4, 32
_POOLED = 4
"""Side of the map to which ScatSimCLR's networks are pooled before it is flattened."""


class ScatteringStem(nn.Sequential):
    """Front, batch norm, 1×1 convolution: what `conv1` and `maxpool` of a ResNet are otherwise, at a stride of 2^J."""

    def __init__(self, channels: int, width: int, scales: int, angles: int) -> None:
        maps = channels * count_channels(scales, angles)
        super().__init__(Scattering(scales, angles), nn.BatchNorm2d(maps), nn.Conv2d(maps, width, 1, bias=False))
        self.stride = 2**scales


class _Block(nn.Module):
    """Two 3×3 convolutions with batch norm and a shortcut, which is a 1×1 convolution where the width changes."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width_in, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if width_in != width:
            self.shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, width, h, w]."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class ScatSimClr(nn.Module):
    """Scattering front, 3×3 convolution, residual blocks without strides, pooled to 4 × 4 and flattened."""

    def __init__(
        self, channels: int, scales: int, angles: int, first: int, blocks: tuple[tuple[int, int], ...]
    ) -> None:
        super().__init__()
        self.front = Scattering(scales, angles)
        self.stride = 2**scales
        maps = channels * count_channels(scales, angles)
        self.conv1, self.bn1 = nn.Conv2d(maps, first, 3, padding=1, bias=False), nn.BatchNorm2d(first)
        widths = [width for width, count in blocks for _ in range(count)]
        self.blocks = nn.Sequential(*map(_Block, [first, *widths[:-1]], widths))
        self.num_features = widths[-1] * _POOLED**2
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, num_features]."""
        x = self.blocks(F.relu(self.bn1(self.conv1(self.front(images)))))
        return F.adaptive_avg_pool2d(x, _POOLED).flatten(1)


class ScatteringNetworks(Family):
    """One vector: the average pool of a ResNet, or the flattened 4 × 4 map of a ScatSimCLR network.

    Arguments: `scales` J and `angles` L of the front; for `scattering_NAME` those of timm's ResNet NAME, too. Detection
    and segmentation don't take these networks, as the front is part of no other library.
    """

    title = "networks on a scattering front"
    noun = "a network on a scattering front"
    vector_name = "pooled map"
    architecture = "scattering"
    dense = "none"

    def builds(self, name: str) -> bool:
        return name in _ADAPTERS or _is_resnet(name)

    def names(self) -> list[str]:
        return [*_ADAPTERS, "scattering_resnet18", "scattering_resnet50"]

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, ScatSimClr) or isinstance(getattr(model, "conv1", None), ScatteringStem)

    def build(self, config: BackboneConfig, drop_path: float) -> nn.Module:
        if config.stem != "imagenet" or config.pos_resize != "timm":
            raise UserError(f"{config.name} has neither backbone.stem nor backbone.pos_resize; leave them out")
        scales, angles = _front_args(config)
        others = {key: value for key, value in config.args.items() if key not in _FRONT_ARGS}
        if config.name in _ADAPTERS:
            if unknown := sorted(others.keys() - {"in_chans"}):
                raise UserError(f"{config.name} has no backbone.args.{unknown[0]}; it has {', '.join(_FRONT_ARGS)}")
            if drop_path:
                raise UserError(f"{config.name} has no drop path; set drop_path=0")
            return ScatSimClr(config.in_chans, scales, angles, *_ADAPTERS[config.name])
        model = timm_models.create(replace(config, name=config.name.removeprefix(_PREFIX), args=others), drop_path)
        if not isinstance(model.conv1, nn.Conv2d):
            raise UserError(f"{config.name} has a stem of several layers, which scattering can't replace; use resnet50")
        model.conv1 = ScatteringStem(config.in_chans, model.bn1.num_features, scales, angles)
        model.maxpool = nn.Identity()
        return model

    def poolings(self, model: Any) -> tuple[Pooling, ...]:
        return ("auto",) if isinstance(model, ScatSimClr) else ("avg",)

    def width(self, model: Any, pooling: Pooling, side: int | None) -> int:
        return int(model.num_features)

    def vector(self, model: Any, images: Tensor, pooling: Pooling) -> Tensor:
        self.resolve_pooling(model, pooling)
        return model(images) if isinstance(model, ScatSimClr) else model.forward_features(images).mean(dim=(2, 3))

    def input_channels(self, model: Any) -> int:
        front = model.front if isinstance(model, ScatSimClr) else model.conv1[0]
        maps = model.conv1.in_channels if isinstance(model, ScatSimClr) else model.conv1[2].in_channels
        return maps // count_channels(front.scales, front.angles)

    def input_multiple(self, model: Any) -> tuple[int, int]:
        stride = model.stride if isinstance(model, ScatSimClr) else model.conv1.stride
        return stride, stride


def _is_resnet(name: str) -> bool:
    return name.startswith(_PREFIX) and timm_models.module_of(name.removeprefix(_PREFIX)) == "resnet"


def _front_args(config: BackboneConfig) -> tuple[int, int]:
    """Scales J and angles L. Raises `UserError` for impossible ones."""
    found = []
    for key, most in (("scales", _MAX_SCALES), ("angles", _MAX_ANGLES)):
        value = config.args.get(key, _FRONT_ARGS[key])
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise UserError(f"backbone.args.{key} must be 1 … {most}, not {value}")
        found.append(value)
    return found[0], found[1]


FAMILY = ScatteringNetworks()
