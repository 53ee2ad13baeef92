"""A hierarchical network of timm as Detectron2 backbone."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import Tensor, nn

from converters.engines.dense_maps import (
    PYRAMID_STRIDES,
    at_stride,
    freeze_unused,
    image_maps,
    pyramid_taps,
)
from core.backbones import family_of
from core.compute.sync_norm import synchronise_norms
from evaluate.detection.model.designs.base import PARTS, build_described
from evaluate.detection.model.detectron2_layers import norm_of


class StagesBackbone(Backbone):
    """`res2` … `res5`: the network's last maps of strides 4, 8, 16 and 32.

    `norm`: `LN` puts a new layer norm behind each map, as the detectors of Swin (arXiv 2103.14030) and ConvNeXt
    (2201.03545) do; `SyncBN` and Detectron2's version for CPUs share the statistics of the network's own batch norms
    among processes. What no map depends on is frozen.
    """

    def __init__(self, network: nn.Module, norm: str) -> None:
        super().__init__()
        self.taps = pyramid_taps(network, type(network).__name__)
        widths = family_of(network).channels(network)
        self.channels = [widths[tap] for tap in self.taps]
        freeze_unused(network, self.taps)
        if norm in ("SyncBN", "naiveSyncBN"):
            network = synchronise_norms(network, torch.device("cuda" if norm == "SyncBN" else "cpu"))
        self.network = network
        new = [norm_of("LN")(channels) if norm == "LN" else nn.Identity() for channels in self.channels]
        self.norms = nn.ModuleList(new)

    def maps(self, images: Tensor) -> list[Tensor]:
        """[B, 3, H, W], sides multiples of 32 -> the maps [B, C, H/s, W/s] for s = 4, 8, 16, 32, before new norms."""
        height, width = images.shape[-2:]
        return [
            at_stride(x, stride, stride, (height // stride, width // stride))
            for stride, x in image_maps(self.network, images, self.taps)
        ]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W], normalised, sides multiples of 32 -> the four maps by name."""
        return {name: norm(x) for name, norm, x in zip(PARTS, self.norms, self.maps(images), strict=True)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map."""
        facts = zip(PARTS, self.channels, PYRAMID_STRIDES, strict=True)
        return {name: ShapeSpec(channels=channels, stride=stride) for name, channels, stride in facts}


@BACKBONE_REGISTRY.register()
def build_stages_fpn_backbone(cfg: Any, _input_shape: ShapeSpec) -> Backbone:
    """Detectron2's feature pyramid on the hierarchical network that `MODEL.SSL` describes."""
    return FPN(
        StagesBackbone(build_described(cfg.MODEL.SSL), cfg.MODEL.SSL.NORM),
        list(PARTS),
        cfg.MODEL.FPN.OUT_CHANNELS,
        norm=norm_of(cfg.MODEL.FPN.NORM),
        top_block=LastLevelMaxPool(),
    )
