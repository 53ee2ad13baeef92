"""The proof for MMSegmentation: its backbone, loaded from the written file, gives timm's maps at every tap."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.engines.openmmlab import import_mmseg
from converters.mmseg_backbone import backbone_settings, mmseg_model
from converters.recognise import recognise
from core.backbones import Backbone, build_backbone, describe, family_of
from core.checkpoints import read_tensors
from core.coverage import load_completely
from core.errors import UserError


def verify_mmseg(backbone: Backbone, out: Path) -> str:
    """Compares all taps on the same random images and returns one sentence: what was compared and the difference.

    Without MMSegmentation the tensors on the way back to timm's names are compared instead, and the sentence says so.
    A ResNet of bottlenecks is compared dilated too (output stride 8). Raises `UserError` where a tensor is lost, where
    a ResNet's map differs at all, and where a ViT's differs by more than 1e-5 of its range.
    """
    try:
        import_mmseg()
    except UserError as error:
        again = build_backbone(backbone.config)
        load_completely(again, recognise(read_tensors(out), str(out), "online").tensors, str(out))
        lost = [
            name for name, tensor in backbone.model.state_dict().items() if not again.state_dict()[name].equal(tensor)
        ]
        if lost:
            raise UserError(f"{out} is not usable: {lost[0]} differs from the backbone's") from None
        return f"verified: the file's tensors, mapped back, are the timm model's; no map was compared, as {error}"
    settings = backbone_settings(backbone.config, backbone.model)
    state = read_tensors(out)["state_dict"]
    side = family_of(backbone.model).image_side(backbone.model) or 96
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    worst = _difference(backbone, backbone.model, settings, state, images, out)
    compared = f"{len(settings['out_indices'])} taps"
    if settings["type"] == "ResNet" and settings["depth"] >= 50:
        dilated = build_backbone(_dilated(backbone)).eval()
        load_completely(dilated, backbone.model.state_dict(), str(out))
        worst = max(worst, _difference(backbone, dilated, dilate(settings), state, images, out))
        compared += ", plain and dilated (output stride 8)"
    return f"verified: MMSegmentation's feature maps equal timm's at all {compared} (largest difference {worst:.2g})"


def dilate(settings: dict[str, Any]) -> dict[str, Any]:
    """The same ResNet at output stride 8: dilation for the strides of the last two stages."""
    return settings | {"strides": [1, 2, 1, 1], "dilations": [1, 1, 2, 4]}


def taps(model: Any, images: Tensor) -> list[Tensor]:
    """timm's maps [B, C, h, w] after each stage of a ResNet or each block of a ViT, the last with the final norm."""
    family = family_of(model)
    maps = [x for _, x in family.maps(model, images)]
    if family.dense == "patches":
        tokens = family.tokens(model, images)
        maps[-1] = tokens.patches.transpose(1, 2).unflatten(2, tokens.grid)
    return maps


def _dilated(backbone: Backbone) -> Any:
    return dataclasses.replace(backbone.config, args=backbone.config.args | {"output_stride": 8})


def _difference(
    backbone: Backbone, ours: Any, settings: dict[str, Any], state: dict[str, Tensor], images: Tensor, out: Path
) -> float:
    """Largest absolute difference over all taps."""
    theirs = mmseg_model(settings)
    theirs.eval()  # returns None
    load_completely(theirs, state, str(out))
    tolerance = family_of(ours).parity_tolerance
    worst = 0.0
    with torch.inference_mode():
        pairs = zip(taps(ours.eval(), images), theirs(images), strict=True)
        for number, (a, b) in enumerate(pairs):
            difference, scale = float((a - b).abs().max()), float(a.abs().max())
            worst = max(worst, difference)
            if not difference <= tolerance * max(scale, 1.0):
                raise UserError(
                    f"{out} is not usable: tap {number} of MMSegmentation's {settings['type']} differs from the timm "
                    f"model's by {difference:.3g} of {scale:.3g}; please report it with the name of the "
                    f"architecture, {describe(backbone.config)}"
                )
    return worst
