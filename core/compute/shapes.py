"""Networks of which only the structure and the shapes are wanted: on the meta device, without drawing weights."""

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


class _NoValues(TorchFunctionMode):
    """Skips methods that change nothing but the values of a meta tensor, which has none; each costs a millisecond."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _VALUES and args and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def shapes_only() -> Iterator[None]:
    """Context in which networks are built on the meta device: no memory, no initialisation."""
    with torch.device("meta"), _NoValues():
        yield
