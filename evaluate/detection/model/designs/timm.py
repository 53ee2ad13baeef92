"""timm's own network inside the detector: hierarchical ones below a feature pyramid, plain ViTs with either pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converters.engines.dense_maps import measure_maps, patch_stride, pyramid_taps
from core.backbones import Backbone, describe, family_of
from core.errors import UserError
from evaluate.detection.model.designs.base import Design

if TYPE_CHECKING:
    from evaluate.detection.settings import DetectionConfig


class TimmDesign(Design):
    """A wrapper around the network that the backbone's family builds; its tensors keep their names."""

    prefix: str
    """Name of the network inside `backbone.bottom_up`."""

    def fits(self, backbone: Backbone) -> bool:
        return family_of(backbone.model).dense == self.takes_all

    def set_backbone(self, cfg: Any, config: DetectionConfig, backbone: Backbone) -> None:
        cfg.MODEL.BACKBONE.NAME = f"build_{self.name}_backbone"

    def network(self) -> str:
        return f"backbone.bottom_up.{self.prefix}."

    def places(self, name: str) -> list[str]:
        return [self.network() + name]

    def owns(self, name: str) -> bool:
        return name.startswith(self.network())

    def parts(self, detector: Any) -> list[Any]:
        return [getattr(detector.backbone.bottom_up, self.prefix)]


class StagesFpn(TimmDesign):
    """A feature pyramid over a hierarchical network's maps of strides 4 … 32."""

    name = "stages_fpn"
    kind = "networks with maps of several strides"
    takes_all = "stages"
    prefix = "network"

    def check_backbone(self, config: DetectionConfig, backbone: Backbone) -> None:
        pyramid_taps(backbone.model, describe(backbone.config))


class VitDesign(TimmDesign):
    """Taps of a plain ViT with patches of any size, resized to strides 4 … 32."""

    kind = "ViTs"
    takes_all = "patches"
    prefix = "vit"

    def check_backbone(self, config: DetectionConfig, backbone: Backbone) -> None:
        what = describe(backbone.config)
        patch_stride(backbone.model, what)
        measure_maps(backbone.model, what)
        depth = family_of(backbone.model).blocks(backbone.model)
        if max(config.detector.taps) >= depth:
            fit = ",".join(str(max(0, quarter * depth // 4 - 1)) for quarter in range(1, 5))
            raise UserError(
                f"{what} has {depth} blocks, counted from 0, detector.taps is {list(config.detector.taps)}; give e.g. "
                f"detector.taps=[{fit}]"
            )


class VitFpn(VitDesign):
    """Four taps below Detectron2's feature pyramid."""

    name = "vit_fpn"


class VitSimple(VitDesign):
    """Four taps, often the same one, without a top-down path."""

    name = "vit_simple"


DESIGNS = (StagesFpn(), VitSimple(), VitFpn())
