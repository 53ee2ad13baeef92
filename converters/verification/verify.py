"""The proof of a conversion: the written file, loaded by its library, gives the feature maps of the timm model."""

from __future__ import annotations

from pathlib import Path

from converters.adapters import adapter_for
from converters.verification.proof import feature_maps
from core.backbones import Backbone

__all__ = ["feature_maps", "verify"]


def verify(backbone: Backbone, to: str, out: Path) -> str:
    """Compares feature maps on the same random images and returns one sentence: what was compared and the difference.

    Where the library is not installed, the way back to timm's names is compared instead, and the sentence says so.
    Raises `UserError` where a tensor is lost, where maps that must be the same bits differ at all, and where others
    differ by more than rounding.
    """
    return adapter_for(backbone, to).verify(backbone, out)
