"""Architectures of weights under timm's names, by their shapes: every module here with an `INFERENCE` is discovered."""

from __future__ import annotations

import importlib
import pkgutil

from converters.inference.base import Inference

INFERENCES: tuple[Inference, ...] = tuple(
    found.INFERENCE
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name)
    if hasattr(found := importlib.import_module(f"{__name__}.{module.name}"), "INFERENCE")
)
"""Kinds of networks besides ResNets and plain ViTs, by file name; the first whose mark is among the names decides."""
