"""Checkpoint families: every module here with a `FAMILY`, or with `FAMILIES`, is discovered."""

from __future__ import annotations

import importlib
import pkgutil

from converters.families.base import Family, Network
from core.untrusted.stand_ins import stand_ins

__all__ = ["FAMILIES", "STAND_INS", "Family", "Network", "known_families"]

_MODULES = [
    importlib.import_module(f"{__name__}.{module.name}")
    for module in pkgutil.iter_modules(__path__)
    if module.name != "base"
]
FAMILIES: tuple[Family, ...] = tuple(
    sorted(
        (family for module in _MODULES for family in getattr(module, "FAMILIES", None) or (module.FAMILY,)),
        key=lambda family: (family.rank, family.name),
    )
)
"""All families in the order in which they are tried."""

STAND_INS = stand_ins(
    [name for family in FAMILIES for name in family.stand_ins],
    [name for family in FAMILIES for name in family.dictionaries],
)
"""For `core.checkpoints.read_tensors`: the classes and functions of all families."""


def known_families() -> str:
    """Names of all families, for messages."""
    return ", ".join([*(family.name for family in FAMILIES), "plain torchvision and timm state dicts"])
