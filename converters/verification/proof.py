"""Proof of a conversion: two networks on the same random images, in float32 and, where that rounds, in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.backbones import Backbone, describe, family_of, input_channels
from core.errors import UserError

Maps = Callable[[Any, Tensor], list[Tensor]]
"""Network and images [B, C, H, W] -> its outputs."""

_IN_DOUBLE = 1e-9
_LARGE_SIDE = 256


def feature_maps(model: Any, images: Tensor) -> list[Tensor]:
    """timm's maps after each stage, [B, C, h, w] each; a ViT's tokens after the final norm, [B, T, D]."""
    family = family_of(model)
    if family.dense == "patches":
        tokens = family.tokens(model, images)
        return [torch.cat([tokens.prefix, tokens.patches], dim=1)]
    return all_maps(model, images)


def all_maps(model: Any, images: Tensor) -> list[Tensor]:
    """timm's maps of all stages or blocks, [B, C, h, w] each."""
    return [map_ for _, map_ in family_of(model).maps(model, images)]


def taps(model: Any, images: Tensor) -> list[Tensor]:
    """timm's maps [B, C, h, w] after each stage of a ResNet or each block of a ViT, the last with the final norm."""
    family = family_of(model)
    maps = all_maps(model, images)
    if family.dense == "patches":
        maps[-1] = family.tokens(model, images).as_map
    return maps


def prove(
    backbone: Backbone,
    out: Path,
    who: str,
    theirs: Any,
    their_maps: Maps,
    our_maps: Maps = feature_maps,
    ours: Any = None,
) -> str:
    """Text `(largest difference …)` about two networks with equal outputs; `who` names the outputs in the plural.

    `ours`: timm's network, by default the backbone's. The bound is the family's `parity_tolerance`, as a share of the
    range: 0 means equal bits. Where float32 exceeds a bound above 0, both are compared in float64, in which rounding is
    nine orders smaller: a difference there is one of the functions. Raises `UserError` for it.
    """
    model = backbone.model if ours is None else ours
    family = family_of(model)
    side = family.image_side(model) or 96
    generator = torch.Generator().manual_seed(0)
    count = 2 if side <= _LARGE_SIDE else 1
    images = torch.randn(count, input_channels(model), side, side, generator=generator)
    single = _compare(model, theirs, our_maps, their_maps, images)
    if single.within(family.parity_tolerance):
        return f"(largest difference {single.difference:.2g} of {single.scale:.2g})"
    worst = single
    if family.parity_tolerance:
        pair = [copy.deepcopy(network).double() for network in (model, theirs)]
        worst = _compare(pair[0], pair[1], our_maps, their_maps, images.double())
        if worst.within(_IN_DOUBLE):
            return (
                f"(largest difference {worst.difference:.2g} of {worst.scale:.2g} in float64, {single.difference:.2g} "
                f"in float32 by rounding)"
            )
    raise UserError(
        f"{out} is not usable: {who} differ from the timm model's at tap {worst.place} by {worst.difference:.3g} of "
        f"{worst.scale:.3g}; please report it with the name of the architecture, {describe(backbone.config)}"
    )


class _Comparison:
    """Largest difference of two lists of outputs, as a share of the range, its place in them, and the range there."""

    def __init__(self, ours: list[Tensor], theirs: list[Tensor]) -> None:
        found = [
            (float((a - b).abs().max()), float(a.abs().max()), place)
            for place, (a, b) in enumerate(zip(ours, theirs, strict=True))
        ]
        # NaN counts as larger than any difference.
        worst = max(found, key=lambda one: math.inf if math.isnan(one[0]) else one[0] / max(one[1], 1.0))
        self.difference, self.scale, self.place = worst

    def within(self, share: float) -> bool:
        """True if the difference is at most this share of the range."""
        return self.difference <= share * max(self.scale, 1.0)


def _compare(ours: Any, theirs: Any, our_maps: Maps, their_maps: Maps, images: Tensor) -> _Comparison:
    ours.eval()
    theirs.eval()
    with torch.inference_mode():
        return _Comparison(our_maps(ours, images), their_maps(theirs, images))
