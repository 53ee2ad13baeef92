"""Adapters between a kind of backbone and MMSegmentation: each file of this folder that defines `ADAPTERS`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from core.backbones import Backbone, describe
from core.errors import UserError
from evaluate.segmentation.model.adapters.base import Adapter


@cache
def adapters() -> tuple[Adapter, ...]:
    """Known adapters, those to MMSegmentation's own networks first."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    found = [adapter for module in modules for adapter in getattr(module, "ADAPTERS", ())]
    return tuple(sorted(found, key=lambda adapter: not adapter.native))


def adapter_for(backbone: Backbone) -> Adapter:
    """The first adapter that takes the backbone. Raises `UserError` for a backbone without maps."""
    found = next((adapter for adapter in adapters() if adapter.takes(backbone)), None)
    if found is None:
        raise UserError(f"{describe(backbone.config)} has no feature maps to segment with; take another backbone")
    return found
