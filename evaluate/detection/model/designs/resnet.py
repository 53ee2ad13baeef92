"""Detectron2's own ResNets, below a feature pyramid or as C4."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converters.engines.plain_resnet import other_layers
from converters.key_maps.detectron2 import RESNET
from core.backbones import Backbone, BackboneConfig, architecture_args, describe, family_of
from core.errors import UserError
from evaluate.detection.model.designs.base import PARTS, Design

if TYPE_CHECKING:
    from evaluate.detection.settings import DetectionConfig, DetectorConfig

DEPTHS = {f"resnet{depth}": depth for depth in (18, 34, 50, 101, 152)}
"""The ResNets that Detectron2's own builder knows."""


def plain_depth(config: BackboneConfig) -> int | None:
    """Depth of a ResNet that Detectron2's builder can make; None if arguments change its shape."""
    return None if architecture_args(config) else DEPTHS.get(config.name)


class ResNetDesign(Design):
    """Detectron2's ResNet, whose maps are the same bits as timm's."""

    kind = "ResNets"

    def check_settings(self, detector: DetectorConfig) -> None:
        super().check_settings(detector)
        if "LN" in (detector.norm, detector.pyramid_norm, detector.head_norm):
            raise ValueError("norm, pyramid_norm and head_norm LN are not for Detectron2's ResNets, which have BN")
        if not detector.norm:
            raise ValueError("norm must be BN or SyncBN for a ResNet, whose weights have batch norms")
        if detector.drop_path:
            raise ValueError(f"drop_path must be 0 for Detectron2's ResNets, not {detector.drop_path}")

    def fits(self, backbone: Backbone) -> bool:
        return family_of(backbone.model).architecture == "resnet"

    def check_backbone(self, config: DetectionConfig, backbone: Backbone) -> None:
        model: Any = backbone.model
        what = describe(backbone.config)
        other = "; take detector.design=stages_fpn, which wraps timm's own network"
        if backbone.config.stem != "imagenet" or getattr(model, "layer4", None) is None:
            raise UserError(f"{what}: the detector's ResNets have a 7×7 stem with max pooling and four stages")
        self.check_depth(config, backbone)
        if different := other_layers(model):
            raise UserError(
                f"{what} can't be Detectron2's ResNet: it has {different}, and Detectron2's would compute other "
                f"features from its weights{other}"
            )
        unknown = [name for name in model.state_dict() if RESNET.from_timm(name) is None]
        if unknown:
            raise UserError(
                f"{what}: Detectron2's ResNet has no place for {len(unknown)} tensors, e.g. {unknown[0]}{other}"
            )

    def check_depth(self, config: DetectionConfig, backbone: Backbone) -> None:
        """Raises `UserError` for a depth or width that the design can't have."""

    def set_backbone(self, cfg: Any, config: DetectionConfig, backbone: Backbone) -> None:
        resnets, depth = cfg.MODEL.RESNETS, plain_depth(backbone.config)
        resnets.NORM, resnets.STRIDE_IN_1X1 = cfg.MODEL.SSL.NORM, False
        if depth is not None:
            resnets.DEPTH = depth
            if depth < 50:
                resnets.RES2_OUT_CHANNELS = 64

    def owns(self, name: str) -> bool:
        return name.startswith(("backbone.bottom_up.", "backbone.stem.", "backbone.res"))


class ResNetFpn(ResNetDesign):
    """A feature pyramid over all four stages, of any width and depth."""

    name = "resnet_fpn"

    def set_backbone(self, cfg: Any, config: DetectionConfig, backbone: Backbone) -> None:
        super().set_backbone(cfg, config, backbone)
        own = plain_depth(backbone.config) is not None
        cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone" if own else "build_any_resnet_fpn_backbone"
        cfg.MODEL.RESNETS.OUT_FEATURES = list(PARTS)

    def places(self, name: str) -> list[str]:
        return [f"backbone.bottom_up.{RESNET.from_timm(name)}"]

    def parts(self, detector: Any) -> list[Any]:
        return [detector.backbone.bottom_up]


class ResNetC4(ResNetDesign):
    """One map, res4; res5 is the head."""

    name = "resnet_c4"
    pyramid = False

    def check_settings(self, detector: DetectorConfig) -> None:
        super().check_settings(detector)
        if detector.box_convs or detector.pyramid_norm or detector.head_norm:
            raise ValueError("design resnet_c4 has neither pyramid nor heads: drop pyramid_norm, head_norm, box_convs")

    def check_depth(self, config: DetectionConfig, backbone: Backbone) -> None:
        if (plain_depth(backbone.config) or 0) < 50:
            raise UserError(
                f"{describe(backbone.config)} can't be measured under {config.name}: C4's head is a res5 of three "
                f"bottlenecks, into which only the weights of ResNet-50, 101 and 152 fit; take a protocol with FPN"
            )

    def set_backbone(self, cfg: Any, config: DetectionConfig, backbone: Backbone) -> None:
        super().set_backbone(cfg, config, backbone)
        cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.OUT_FEATURES = "build_resnet_backbone", ["res4"]

    def places(self, name: str) -> list[str]:
        theirs = RESNET.from_timm(name)
        return [f"backbone.{theirs}", f"roi_heads.{theirs}"]

    def owns(self, name: str) -> bool:
        # res5 is numbered below C4's head; what isn't numbered there is the extra norm.
        parts = name.split(".")
        return parts[2].isdigit() if parts[:2] == ["roi_heads", "res5"] else super().owns(name)

    def parts(self, detector: Any) -> list[Any]:
        res5 = detector.roi_heads.res5
        return [detector.backbone, *(block for name, block in res5.named_children() if name.isdigit())]


DESIGNS = (ResNetFpn(), ResNetC4())
