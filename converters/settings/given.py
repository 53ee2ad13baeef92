"""Settings of a backbone that the command line gives where its file doesn't."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass

from core.backbones import BackboneConfig
from core.backbones.positions import PosResize
from core.errors import UserError


@dataclass(frozen=True)
class Given:
    """Values of `--mean`, `--std` and `--pos-resize`; None where they are not given."""

    mean: tuple[float, ...] | None = None
    """Per-channel mean (image values in 0 … 1)."""
    std: tuple[float, ...] | None = None
    """Per-channel standard deviation."""
    pos_resize: PosResize | None = None
    """Rule by which position embeddings are resized."""

    def apply(self, config: BackboneConfig) -> BackboneConfig:
        """`config` with the given values. Raises `UserError` for values that don't fit it."""
        changes = {key: value for key, value in dataclasses.asdict(self).items() if value is not None}
        if not changes:
            return config
        try:
            return dataclasses.replace(config, **changes)
        except ValueError as error:
            raise UserError(f"--mean and --std don't fit the backbone: {error}") from None


NOTHING = Given()


def given_by(arguments: argparse.Namespace) -> Given:
    """The values among parsed arguments, as `add_settings` adds them. Raises `UserError` for half a normalisation."""
    if (arguments.mean is None) != (arguments.std is None):
        raise UserError("--mean and --std belong together; give both")
    mean, std = arguments.mean, arguments.std
    return Given(None if mean is None else tuple(mean), None if std is None else tuple(std), arguments.pos_resize)
