"""Adapters to other libraries: each file of this folder that defines `ADAPTERS` writes one kind of backbone for one."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from converters.adapters.base import Adapter
from core.backbones import Backbone, describe, family_of
from core.errors import UserError


@cache
def adapters() -> tuple[Adapter, ...]:
    """Known adapters by library, those to a library's own networks first."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    found = [adapter for module in modules for adapter in getattr(module, "ADAPTERS", ())]
    return tuple(sorted(found, key=lambda adapter: (adapter.library, not adapter.native)))


def libraries() -> list[str]:
    """Libraries that a backbone can be written for."""
    return sorted({adapter.library for adapter in adapters()})


def adapter_for(backbone: Backbone, library: str) -> Adapter:
    """The first adapter that writes the backbone for `library`.

    Raises `UserError` with the reason of the first adapter for its kind where none does.
    """
    reasons = []
    for adapter in adapters():
        if adapter.library == library and adapter.fits(backbone):
            try:
                adapter.check(backbone)
            except UserError as error:
                reasons.append(error)
            else:
                return adapter
    if reasons:
        raise reasons[0]
    way_out = "convert --to timm instead"
    if not any(adapter.library == "timm" and adapter.fits(backbone) for adapter in adapters()):
        way_out = f"{family_of(backbone.model).noun} exists in this project alone"
    raise UserError(f"{library} has no {describe(backbone.config)}; {way_out}")
