"""Facts about an architecture that the weights do not show and the file's family or key map implies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from converters.key_maps.base import Rgb
from core.backbones.positions import PosResize


@dataclass(frozen=True)
class Hints:
    """Facts about an architecture that the weights do not show and the family of the file implies."""

    family: str = ""
    """Its name, for messages."""
    padded_stem: bool = False
    """3×3 stems have a border of 2 pixels instead of 1."""
    heads: Mapping[int, int] = field(default_factory=dict)
    """Width of a ViT -> its number of attention heads, where it is not width / 64."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of timm's model."""
    statistics: tuple[Rgb, Rgb] | None = None
    """Mean and standard deviation with which the project trains; None: they vary."""
    positions: PosResize = "timm"
    """Rule by which the project resizes position embeddings."""


NO_HINTS = Hints()
