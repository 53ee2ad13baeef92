"""Networks built without drawing their weights: for their shapes alone, or because a file's weights follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_VALUES = {
    *("add_", "clamp_", "copy_", "div_", "erfinv_", "exponential_"),
    *("fill_", "mul_", "normal_", "sub_", "uniform_", "zero_"),
}

_RANDOM = {"erfinv_", "kaiming_normal_", "kaiming_uniform_", "normal_", "trunc_normal_", "uniform_"}


class _NoValues(TorchFunctionMode):
    """Skips methods that change nothing but the values of a meta tensor, which has none; each costs a millisecond."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _VALUES and args and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


class _NothingDrawn(TorchFunctionMode):
    """Writes zeros where random numbers would be drawn.

    Memory as allocated is no substitute: torch's trunc_normal_ draws until all values lie within its bounds.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        place = args[0] if args else (kwargs or {}).get("tensor")  # torch.nn.init hands it over by name
        if getattr(func, "__name__", "") in _RANDOM and isinstance(place, Tensor):
            place.detach().zero_()
            return place
        return func(*args, **(kwargs or {}))


@contextmanager
def nothing_drawn() -> Iterator[None]:
    """Context in which networks are built whose every tensor is then loaded: drawing takes longer than reading."""
    with _NothingDrawn():
        yield


@contextmanager
def shapes_only() -> Iterator[None]:
    """Context in which networks are built on the meta device: no memory, no initialisation."""
    with torch.device("meta"), _NoValues():
        yield
