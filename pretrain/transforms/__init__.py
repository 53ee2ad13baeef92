"""View transforms by name: each file of this folder is one transform.

A transform changes a view before its colours do. Its file has three parts; nothing else refers to it:

- `Config`: a frozen dataclass, its options.
- `draw(config, size, rng)`: the random parameters of one view of `size`² pixels, drawn in a loader worker; arrays by
  name, of the same shape for every sample. Raises ValueError where the options don't fit the size.
- `apply(images, parameters, config)`: the transform of float images [B, 3, S, S] in 0…1, on their device, with each
  parameter as a NumPy array [B, …]; may overwrite `images`, must not wait for the device.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch

from pretrain.options import build_options


class Transform(Protocol):
    """Interface of a transform's file."""

    Config: type[Any]

    def draw(self, config: Any, size: int, rng: np.random.Generator) -> dict[str, np.ndarray]: ...

    def apply(self, images: torch.Tensor, parameters: Mapping[str, np.ndarray], config: Any) -> torch.Tensor: ...


def names() -> list[str]:
    """Names of the known transforms, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(name: str) -> Transform:
    """Transform called `name`; ValueError with the known names for any other."""
    if name not in names():
        raise ValueError(f"unknown transform {name!r}; known: {', '.join(names())}")
    transform: Any = importlib.import_module(f"{__name__}.{name}")
    return transform


def configure(name: str, options: Mapping[str, Any]) -> Any:
    """`Config` of transform `name` from plain values (lists stand for tuples, as in YAML).

    Raises ValueError naming the option where a key is unknown, a type is wrong or a value is impossible.
    """
    return build_options("transform", name, find(name).Config, options)
