"""timm's own network as a Detectron2 backbone, for scripts that load a file of `convert.py --to detectron2`."""

from __future__ import annotations

from typing import Any

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import Tensor

from converters.engines.dense_maps import image_maps, measure_maps
from core.backbones import BackboneConfig, build_backbone, family_of


class TimmBackbone(Backbone):
    """All maps of a network, `map0`, `map1`, …: [B, 3, H, W] -> [B, C, h, w] each, of a stage or a block of patches.

    Images that the patches do not divide are padded with zeros on the right and below.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.network: Any = build_backbone(config)
        side = family_of(self.network).image_side(self.network)
        self.facts = measure_maps(self.network, config.name, side)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps by name."""
        found = image_maps(self.network, images, range(len(self.facts)))
        return {f"map{number}": x for number, (_, x) in enumerate(found)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map."""
        return {
            f"map{number}": ShapeSpec(channels=channels, stride=stride)
            for number, (stride, channels) in enumerate(self.facts)
        }
