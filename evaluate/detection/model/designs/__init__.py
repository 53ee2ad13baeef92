"""Designs of a detector's backbone: each file of this folder that defines `DESIGNS` holds some.

A design is the adapter between a kind of backbone and Detectron2: which backbones it takes, what it sets in the
engine's config, and where the backbone's tensors lie in the detector.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from evaluate.detection.model.designs.base import Design


@cache
def designs() -> dict[str, Design]:
    """Known designs by the name that `detector.design` gives."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return {design.name: design for module in modules for design in getattr(module, "DESIGNS", ())}


def design_named(name: str) -> Design:
    """The design that `detector.design` names. Raises `ValueError` with the known names if there is none."""
    if name not in designs():
        raise ValueError(f"design must be one of {', '.join(sorted(designs()))}, not {name!r}")
    return designs()[name]


def design_for(dense: str) -> str:
    """Name of a design that takes every backbone with such maps (`Family.dense`), for suggestions; "" without one."""
    return next((design.name for design in designs().values() if design.takes_all == dense), "")
