"""Opening of the backbone that a command line names."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.backbones import Backbone


def open_named(arguments: argparse.Namespace, seed: int) -> Backbone:
    """Backbone of `--ckpt`, `--network` and `--arch`, with `--mean`, `--std` and `--pos-resize`. Raises `UserError`."""
    from converters.open import open_backbone
    from converters.settings.given import given_by

    return open_backbone(arguments.ckpt, arguments.network, arguments.arch, seed, given_by(arguments))
