"""Activations of timm's networks by what they compute."""

from __future__ import annotations

from torch import nn


def is_gelu(module: nn.Module) -> bool:
    """True for the exact GELU, torch's or timm's, and false for its approximations."""
    return type(module).__name__ == "GELU" and getattr(module, "approximate", "none") == "none"
