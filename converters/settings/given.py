"""Settings of a backbone that the command line gives where its file doesn't."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from typing import Any

from core.backbones import Backbone, BackboneConfig, build_backbone
from core.backbones.positions import PosResize
from core.checkpoints import GIVEN
from core.errors import UserError


@dataclass(frozen=True)
class Given:
    """Values of `--mean`, `--std`, `--in-chans` and `--pos-resize`; None where they are not given."""

    mean: tuple[float, ...] | None = None
    """Per-channel mean (image values in 0 … 1)."""
    std: tuple[float, ...] | None = None
    """Per-channel standard deviation."""
    pos_resize: PosResize | None = None
    """Rule by which position embeddings are resized."""
    in_chans: int | None = None
    """Channels to which the first convolution is adapted."""

    def apply(self, config: BackboneConfig) -> BackboneConfig:
        """`config` with the given values. Raises `UserError` for values that don't fit it."""
        changes: dict[str, Any] = {
            key: value for key, value in dataclasses.asdict(self).items() if value is not None and key != "in_chans"
        }
        if self.in_chans is not None and self.in_chans != config.in_chans:
            changes["args"] = config.args | {"in_chans": self.in_chans}
        if not changes:
            return config
        try:
            return dataclasses.replace(config, **changes)
        except ValueError as error:
            raise UserError(f"--mean, --std and --in-chans don't fit the backbone: {error}") from None


NOTHING = Given()


def given_by(arguments: argparse.Namespace) -> Given:
    """The values among parsed arguments (`core.backbone_options`). Raises `UserError` for half of a pair."""
    mean, std, channels = arguments.mean, arguments.std, arguments.in_chans
    if (mean is None) != (std is None):
        raise UserError("--mean and --std belong together; give both")
    if channels is not None and channels != 3 and mean is None:
        raise UserError(f"--in-chans {channels} needs --mean and --std with {channels} numbers each")
    return Given(mean, std, arguments.pos_resize, channels)


def with_given(backbone: Backbone, given: Given) -> Backbone:
    """The backbone with values from the command line, which replace those of its file, its header or of timm."""
    config = given.apply(backbone.config)
    if config == backbone.config:
        return backbone
    model, notes = backbone.model, []
    if given.mean is not None:
        notes.append(GIVEN)
    if config.pos_resize != backbone.config.pos_resize or config.in_chans != backbone.config.in_chans:
        state = dict(backbone.model.state_dict())
        model = build_backbone(config)
        if config.in_chans != backbone.config.in_chans:
            notes.append(_adapt(state, backbone, config.in_chans))
        if config.pos_resize != backbone.config.pos_resize:
            notes.append(f"position embeddings resized as {config.pos_resize}")
        model.load_state_dict(state)
        model.eval()
    origin = backbone.origin | ({"normalisation": GIVEN} if given.mean is not None else {})
    source = f"{backbone.source} with {', '.join(notes)}"
    return dataclasses.replace(backbone, config=config, model=model, source=source, origin=origin)


def _adapt(state: dict[str, Any], backbone: Backbone, channels: int) -> str:
    """Adapts the first convolution's filters in `state` by timm's rule; the sentence that reports it."""
    from timm.models import adapt_input_conv
    from torch import nn

    if backbone.config.in_chans != 3:
        raise UserError(f"--in-chans adapts RGB weights, and these take {backbone.config.in_chans} channels; drop it")
    name = next((name for name, part in backbone.model.named_modules() if isinstance(part, nn.Conv2d)), None)
    if name is None:
        raise UserError("--in-chans is for networks that begin with a convolution; drop it")
    try:
        state[f"{name}.weight"] = adapt_input_conv(channels, state[f"{name}.weight"])
    except NotImplementedError as error:
        raise UserError(f"--in-chans: timm can't adapt {name} ({error})") from None
    return f"{name} adapted from 3 to {channels} channels (timm's rule: filters summed or repeated, and scaled)"
