"""A timm ViT as Detectron2 backbone: outputs of four blocks, resized to strides 4 … 32, and a pyramid over them."""

from __future__ import annotations

import math
from typing import Any

from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn
from torch.nn.functional import pad

from core.backbones import BackboneConfig, build_backbone, family_of
from evaluate.detection.model.detectron2_layers import norm_of

NAMES = ("res2", "res3", "res4", "res5")


class VitBackbone(Backbone):
    """`res2` … `res5`: the maps of four blocks, enlarged by 4 and 2, as they are, and halved.

    Enlarging is learned (transposed convolutions), halving is max pooling (arXiv 2111.11429, section 3.1; 2203.16527,
    section 3). `narrowing`: each transposed convolution halves the channels, as in the latter; otherwise they stay.
    `square`: smaller images are padded on the right and below to this many pixels on both sides (0: not at all). A
    block that no tap needs is not run, and its weights are frozen.
    """

    def __init__(self, vit: Any, taps: tuple[int, ...], norm: Any, narrowing: bool, square: int) -> None:
        super().__init__()
        self.vit, self.taps, self._family = vit, taps, family_of(vit)
        width = self._family.channels(vit)[max(taps)]
        # A multiple of 32, because of the coarsest map.
        self.square = math.ceil(square / 32) * 32
        half, quarter = (width // 2, width // 4) if narrowing else (width, width)
        self.channels = (quarter, half, width, width)
        self.scales = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(width, half, 2, stride=2),
                    get_norm(norm, half) or nn.Identity(),
                    nn.GELU(),
                    nn.ConvTranspose2d(half, quarter, 2, stride=2),
                ),
                nn.ConvTranspose2d(width, half, 2, stride=2),
                nn.Identity(),
                nn.MaxPool2d(2),
            ]
        )
        layers = self._family.layer_groups(vit).layers
        for name, parameter in vit.named_parameters():
            parameter.requires_grad_(layers[name] <= max(taps) + 1)  # block i is layer i + 1

    def maps(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W], sides multiples of 16 -> the taps' maps before resizing, [B, C, H/16, W/16] each."""
        return [x for _, x in self._family.maps(self.vit, images, self.taps)]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W], normalised, sides multiples of 32 -> the four resized maps by name."""
        height, width = images.shape[-2:]
        images = pad(images, (0, max(0, self.square - width), 0, max(0, self.square - height)))
        return {name: scale(x) for name, scale, x in zip(NAMES, self.scales, self.maps(images), strict=True)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map."""
        return {
            name: ShapeSpec(channels=channels, stride=4 * 2**level)
            for level, (name, channels) in enumerate(zip(NAMES, self.channels, strict=True))
        }


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
        self.levels = nn.ModuleList(_Level(shapes[name].channels, width, norm) for name in NAMES)
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
    backbone = BackboneConfig(cfg.MODEL.SSL.NAME, dict(cfg.MODEL.SSL.ARGS))
    vit = build_backbone(backbone, drop_path=cfg.MODEL.SSL.DROP_PATH)
    return VitBackbone(vit, tuple(cfg.MODEL.SSL.TAPS), norm_of(cfg.MODEL.SSL.NORM), narrowing, cfg.MODEL.SSL.SQUARE)


@BACKBONE_REGISTRY.register()
def build_vit_fpn_backbone(cfg: Any, _input_shape: ShapeSpec) -> Backbone:
    """Detectron2's feature pyramid on the ViT that `MODEL.SSL` describes."""
    return FPN(
        _taps(cfg, narrowing=False),
        list(NAMES),
        cfg.MODEL.FPN.OUT_CHANNELS,
        norm=norm_of(cfg.MODEL.FPN.NORM),
        top_block=LastLevelMaxPool(),
    )


@BACKBONE_REGISTRY.register()
def build_vit_simple_backbone(cfg: Any, _input_shape: ShapeSpec) -> Backbone:
    """Simple pyramid on the ViT that `MODEL.SSL` describes."""
    return SimplePyramid(_taps(cfg, narrowing=True), cfg.MODEL.FPN.OUT_CHANNELS, norm_of(cfg.MODEL.FPN.NORM))
