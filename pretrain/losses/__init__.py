"""Losses by name: each file of this folder that defines `LOSS` is one loss; docs/losses.md shows how to add one.

Its file has two parts, and nothing else refers to it:

- `Config`: a frozen dataclass, its options.
- `LOSS`: a class derived from `base.Objective` or `base.Auxiliary`.
- `draw(config, view, rng)`, optional: random numbers for one global view (an auxiliary loss: one of its views) of one
  sample, drawn in a loader worker; arrays by name, of the same shape for every sample, which become the parameters
  `LOSS.name` of the view.
- `picture(config, images, parameters)`, optional, of an auxiliary loss: what it makes of its views, for `--show-views`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from pretrain.losses.base import Auxiliary, Loss, Objective, Parameters
from pretrain.options import build_options
from pretrain.views.config import ViewConfig


class LossFile(Protocol):
    """Interface of a loss's file; `draw` and `picture` may be missing."""

    Config: type[Any]
    LOSS: type[Loss]

    def draw(self, config: Any, view: ViewConfig, rng: np.random.Generator) -> dict[str, np.ndarray]: ...

    def picture(self, config: Any, images: Tensor, parameters: Parameters) -> Tensor: ...


@lru_cache
def _discover(folders: tuple[str, ...]) -> dict[str, LossFile]:
    modules: dict[str, Any] = {
        module.name: importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(folders)
    }
    return {name: modules[name] for name in sorted(modules) if hasattr(modules[name], "LOSS")}


def names(kind: type[Loss]) -> list[str]:
    """Names of the known losses of a kind, `Objective` or `Auxiliary`, sorted."""
    return [name for name, file in _discover(tuple(__path__)).items() if issubclass(file.LOSS, kind)]


def find(name: str, kind: type[Loss]) -> LossFile:
    """File of the loss `name`; ValueError with the known names for any other."""
    what = "objective" if kind is Objective else "auxiliary loss"
    if name not in names(kind):
        other = Auxiliary if kind is Objective else Objective
        place = "auxiliary.NAME" if other is Auxiliary else "objective.name"
        hint = f"; {name} belongs in {place}" if name in names(other) else ""
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(names(kind))}{hint}")
    return _discover(tuple(__path__))[name]


def configure(name: str, kind: type[Loss], options: Mapping[str, Any]) -> Any:
    """`Config` of a loss from plain values. Raises ValueError for an unknown loss or an impossible option."""
    return build_options("loss", name, find(name, kind).Config, options)
