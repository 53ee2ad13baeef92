"""timm's own network inside MMSegmentation, for everything with maps that MMSegmentation has no equal network for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from converters.engines.dense_maps import freeze, freeze_unused, measure_maps
from core.backbones import Backbone, describe, family_of, to_metadata
from core.backbones.class_token import without_class_token
from core.coverage import load_completely
from core.errors import UserError
from evaluate.segmentation.model.adapters.base import Adapter
from evaluate.segmentation.protocol import SegmentConfig


class TimmAdapter(Adapter):
    """The very network of the probes; tensors keep timm's names below `backbone.network.`."""

    native = False

    def __init__(self, dense: str) -> None:
        self.dense, self.plain = dense, dense == "patches"

    def takes(self, backbone: Backbone) -> bool:
        return family_of(backbone.model).dense == self.dense

    def settings(self, config: SegmentConfig, backbone: Backbone, norm_cfg: dict[str, Any]) -> dict[str, Any]:
        network, what = config.network, describe(backbone.config)
        taps = self._taps_of(config, self._check(config, backbone, what))
        channels = family_of(backbone.model).channels(backbone.model)
        return {
            "type": "TimmNetwork", "config": json.dumps(to_metadata(_seen(config, backbone).config)),
            "taps": taps, "normed": network.final_norm_on if network.final_norm else "none",
            "drop_path": network.drop_path,
            "new_norms": [channels[tap] for tap in taps] if network.map_norm else [],
        }  # fmt: skip

    def _check(self, config: SegmentConfig, backbone: Backbone, what: str) -> list[tuple[int, int]]:
        """Facts about the maps of a crop (`measure_maps`). Raises `UserError` for settings that don't fit."""
        network, family, size = config.network, family_of(backbone.model), config.crop.size
        if self.plain:
            self.check_taps(config, what, family.blocks(backbone.model))
            patch = max(family.input_multiple(backbone.model))
            if size % patch:
                below = size // patch * patch
                raise UserError(
                    f"crop.size={size} can't be divided into the {patch}-pixel patches of {what}; set crop.size to "
                    f"{below or patch} or {below + patch}"
                )
        elif network.output_stride != 32:
            raise UserError(
                f"network.output_stride={network.output_stride} dilates MMSegmentation's own ResNets, and {what} is "
                f"timm's network; set it to 32"
            )
        if network.map_norm and self.plain:
            raise UserError(f"network.map_norm=true is for hierarchical networks, not for {what}; set it to false")
        if network.final_norm and not self.plain:
            raise UserError(f"network.final_norm=true is for ViTs, not for {what}; set it to false")
        if config.inference.mode == "whole":
            self._check_any_size(backbone, what)
        return measure_maps(backbone.model, what, size)

    def _check_any_size(self, backbone: Backbone, what: str) -> None:
        """Raises `UserError` for a network that takes images of one size alone, as whole test images differ in size."""
        try:
            measure_maps(backbone.model, what)
        except UserError as error:
            own = family_of(backbone.model).image_side(backbone.model)
            raise UserError(
                f"{error}, or train on crops and test in windows of its size: crop.size={own} inference.mode=slide "
                f"inference.stride={own}"
            ) from None

    def _taps(self, config: SegmentConfig, backbone: Backbone) -> list[int]:
        if self.plain:
            return list(config.network.taps)
        return self._taps_of(config, measure_maps(backbone.model, describe(backbone.config), config.crop.size))

    def _taps_of(self, config: SegmentConfig, facts: Sequence[tuple[int, int]]) -> list[int]:
        """Blocks of the protocol, or the last map of each of the four coarsest strides from 4 on."""
        if self.plain:
            return list(config.network.taps)
        return sorted({stride: tap for tap, (stride, _) in enumerate(facts) if stride >= 4}.values())[-4:]

    def widths(self, config: SegmentConfig, backbone: Backbone) -> list[int]:
        channels = family_of(backbone.model).channels(backbone.model)
        return [channels[tap] for tap in self._taps(config, backbone)]

    def load(self, module: Any, backbone: Backbone, config: SegmentConfig) -> str:
        seen = _seen(config, backbone)
        coverage = load_completely(module.network, seen.model.state_dict(), backbone.source)
        report = f"{len(coverage.matched)} of {len(backbone.model.state_dict())} tensors loaded into timm's network"
        if seen is not backbone:
            report += ", the class token left out"
        unused = freeze_unused(module.network, module.taps)
        kept = [name for name in unused if not (module.norm is not None and name.startswith("norm."))]
        for name in set(unused) - set(kept):
            module.network.get_parameter(name).requires_grad_(True)
        return report + (f"; {len(kept)} on which no tap depends are frozen, e.g. {kept[0]}" if kept else "")

    def freeze(self, module: Any) -> None:
        freeze([module.network], inside=module)

    def layer_decay(self, backbone: Backbone, rate: float) -> dict[str, Any]:
        if not family_of(backbone.model).layer_groups(backbone.model).top:
            raise UserError(
                f"optim.layer_decay applies to networks whose layers are known, not to {backbone.config.name}; set "
                f"optim.layer_decay=null"
            )
        return {"constructor": "LayerGroupDecay", "paramwise_cfg": {"decay_rate": rate}}

    def undecayed(self, backbone: Backbone) -> tuple[str, ...]:
        return tuple(sorted(family_of(backbone.model).layer_groups(backbone.model).undecayed))


def _seen(config: SegmentConfig, backbone: Backbone) -> Backbone:
    """The backbone as the protocol uses it."""
    return backbone if config.network.class_token else without_class_token(backbone)


ADAPTERS = (TimmAdapter("stages"), TimmAdapter("patches"))
