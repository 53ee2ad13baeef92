"""Checks that a backbone fits a detection protocol."""

from __future__ import annotations

from converters.engines.dense_maps import check_named
from core.backbones import Backbone, check_rgb, check_weights, describe, family_of
from core.errors import UserError
from evaluate.detection.model.designs import design_for, design_named
from evaluate.detection.settings import DetectionConfig


def check_fit(config: DetectionConfig, backbone: Backbone) -> None:
    """Raises `UserError` if the protocol's design can't use the backbone."""
    check_weights(backbone, "build a detector on")
    design, what, family = design_named(config.detector.design), describe(backbone.config), family_of(backbone.model)
    check_named(backbone)
    check_rgb(backbone)
    if not design.fits(backbone):
        other = design_for(family.dense)
        way_out = f"; set detector.design={other}" if other else ", which has no maps; take another backbone"
        raise UserError(f"{config.name} is a protocol for {design.kind}, and {backbone.source} is a {what}{way_out}")
    design.check_backbone(config, backbone)
    if config.solver.layer_decay != 1 and not (design.network() and family.layer_groups(backbone.model).top):
        raise UserError(
            f"solver.layer_decay={config.solver.layer_decay:g} needs a backbone whose layers are known inside the "
            f"detector, which those of {what} are not under detector.design={design.name}; set it to 1"
        )
