"""A plain ViT of timm as Detectron2 backbone: outputs of four blocks, resized to strides 4 … 32, below a pyramid."""

from __future__ import annotations

import math
from typing import Any

from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn
from torch.nn.functional import pad

from converters.engines.dense_maps import PYRAMID_STRIDES, at_stride, freeze_unused, image_maps, patch_stride
from core.backbones import family_of
from evaluate.detection.model.designs.base import PARTS, build_described
from evaluate.detection.model.detectron2_layers import norm_of


class VitBackbone(Backbone):
    """`res2` … `res5`: the maps of four blocks at strides 4, 8, 16 and 32.

    With patches of 16 pixels they are enlarged by 4 and 2, kept, and halved. Enlarging is learned (transposed
    convolutions), halving is max pooling (arXiv 2111.11429, section 3.1; 2203.16527, section 3). Maps of other patches
    are first resized bilinearly to the nearest power of two, e.g. from 14 to 16 pixels per cell, and images are padded
    to whole patches. `narrowing`: each transposed convolution halves the channels, as in the latter; otherwise they
    stay. `square`: smaller images are padded on the right and below to this many pixels on both sides (0: not at all).
    A block that no tap needs is not run, and its weights are frozen.
    """

    def __init__(self, vit: Any, taps: tuple[int, ...], norm: Any, narrowing: bool, square: int) -> None:
        super().__init__()
        self.vit, self.taps = vit, taps
        width = family_of(vit).channels(vit)[max(taps)]
        # A multiple of 32, because of the coarsest map.
        self.square = math.ceil(square / 32) * 32
        self.stride = 2 ** round(math.log2(patch_stride(vit, type(vit).__name__)))
        self.scales, self.channels = nn.ModuleList(), []
        for stride in PYRAMID_STRIDES:
            layers, channels = _scale(width, self.stride / stride, norm, narrowing)
            self.scales.append(layers)
            self.channels.append(channels)
        freeze_unused(vit, taps)

    def maps(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W], sides multiples of 32 -> the taps' maps [B, C, H/s, W/s] before enlarging, s = `stride`."""
        height, width = images.shape[-2:]
        size = (height // self.stride, width // self.stride)
        return [at_stride(x, stride, self.stride, size) for stride, x in image_maps(self.vit, images, self.taps)]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W], normalised, sides multiples of 32 -> the four resized maps by name."""
        height, width = images.shape[-2:]
        images = pad(images, (0, max(0, self.square - width), 0, max(0, self.square - height)))
        return {name: scale(x) for name, scale, x in zip(PARTS, self.scales, self.maps(images), strict=True)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map."""
        return {
            name: ShapeSpec(channels=channels, stride=4 * 2**level)
            for level, (name, channels) in enumerate(zip(PARTS, self.channels, strict=True))
        }


def _scale(width: int, factor: float, norm: Any, narrowing: bool) -> tuple[nn.Module, int]:
    """Layers that enlarge a map of `width` channels by `factor`, a power of two, and their number of channels."""
    if factor <= 1:
        return (nn.Identity() if factor == 1 else nn.MaxPool2d(round(1 / factor))), width
    layers: list[nn.Module] = []
    for step in range(round(math.log2(factor))):
        if step:
            layers += [get_norm(norm, width) or nn.Identity(), nn.GELU()]
        outputs = width // 2 if narrowing else width
        layers.append(nn.ConvTranspose2d(width, outputs, 2, stride=2))
        width = outputs
    return (nn.Sequential(*layers) if len(layers) > 1 else layers[0]), width


class _Level(CNNBlockBase):
    """One level of the simple pyramid: a 1×1 and a 3×3 convolution, each with a norm."""

    def __init__(self, channels: int, width: int, norm: Any) -> None:
        super().__init__(channels, width, 1)
        bias = norm == ""
        self.narrow = Conv2d(channels, width, 1, bias=bias, norm=get_norm(norm, width))
        self.smooth = Conv2d(width, width, 3, padding=1, bias=bias, norm=get_norm(norm, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.smooth(self.narrow(x))


class SimplePyramid(Backbone):
    """`p2` … `p6` without a top-down path (arXiv 2203.16527, section 3); p6 is every second position of p5."""

    def __init__(self, bottom_up: VitBackbone, width: int, norm: Any) -> None:
        super().__init__()
        self.bottom_up, self.top = bottom_up, LastLevelMaxPool()
        shapes = bottom_up.output_shape()
        self.levels = nn.ModuleList(_Level(shapes[name].channels, width, norm) for name in PARTS)
        self.width = width

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] -> maps by name."""
        maps = [level(x) for level, x in zip(self.levels, self.bottom_up(images).values(), strict=True)]
        return {f"p{number}": x for number, x in enumerate([*maps, *self.top(maps[-1])], start=2)}

    @property
    def size_divisibility(self) -> int:
        """Sides of images must be multiples of this."""
        return 32

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map."""
        return {f"p{number}": ShapeSpec(channels=self.width, stride=2**number) for number in range(2, 7)}


def _taps(cfg: Any, narrowing: bool) -> VitBackbone:
    ssl = cfg.MODEL.SSL
    return VitBackbone(build_described(ssl), tuple(ssl.TAPS), norm_of(ssl.NORM), narrowing, ssl.SQUARE)


@BACKBONE_REGISTRY.register()
def build_vit_fpn_backbone(cfg: Any, _input_shape: ShapeSpec) -> Backbone:
    """Detectron2's feature pyramid on the ViT that `MODEL.SSL` describes."""
    return FPN(
        _taps(cfg, narrowing=False),
        list(PARTS),
        cfg.MODEL.FPN.OUT_CHANNELS,
        norm=norm_of(cfg.MODEL.FPN.NORM),
        top_block=LastLevelMaxPool(),
    )


@BACKBONE_REGISTRY.register()
def build_vit_simple_backbone(cfg: Any, _input_shape: ShapeSpec) -> Backbone:
    """Simple pyramid on the ViT that `MODEL.SSL` describes."""
    return SimplePyramid(_taps(cfg, narrowing=True), cfg.MODEL.FPN.OUT_CHANNELS, norm_of(cfg.MODEL.FPN.NORM))
