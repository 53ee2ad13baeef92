"""Stand-in for a CUDA graph on the CPU: operations are recorded once and replayed on the same memory.

As in a CUDA graph, nothing of Python runs again in a replay, inputs are read where they lay at the capture, results are
written where they lay then, and the capture itself leaves the values of before. Memory of freed tensors isn't reused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class RecordedGraph(TorchDispatchMode):
    """Operations of its context; those whose results share memory with what they were given change it in place."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Callable[..., Any], Any, Any, list[Tensor | None]]] = []
        self._made: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        for tensor in given:
            if _place(tensor) not in self._made | self._before.keys():
                whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
                self._before[_place(tensor)] = whole, whole.clone()
        found = function(*args, **kwargs)
        places = {_place(tensor) for tensor in given}
        own = [None if _place(tensor) in places else tensor.detach() for tensor in _tensors(found)]
        self._made |= {_place(tensor) for tensor in own if tensor is not None}
        self._calls.append((function, args, kwargs, own))
        return found

    def leave_the_values_of_before(self) -> None:
        """To be called after the capture, which computes nothing on a GPU."""
        for whole, values in self._before.values():
            whole.copy_(values)

    @torch.no_grad()
    def replay(self) -> None:
        """The same operations on the same memory."""
        for function, args, kwargs, own in self._calls:
            found = _tensors(function(*args, **kwargs))
            for target, values in zip(own, found, strict=True):
                if target is not None:
                    target.copy_(values)


def record_graphs(patch: pytest.MonkeyPatch) -> list[RecordedGraph]:
    """Has `torch.cuda` record graphs on the CPU; gives the list of those made."""
    made: list[RecordedGraph] = []

    def build() -> RecordedGraph:
        made.append(RecordedGraph())
        return made[-1]

    @contextmanager
    def capture(graph: RecordedGraph, **_options: Any) -> Iterator[None]:
        with graph:
            yield
        graph.leave_the_values_of_before()

    stream = SimpleNamespace(device=torch.device("cuda"), wait_stream=lambda other: None)
    patch.setattr(torch.cuda, "Stream", lambda device: stream)
    patch.setattr(torch.cuda, "current_stream", lambda device: stream)
    patch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    patch.setattr(torch.cuda, "CUDAGraph", build)
    patch.setattr(torch.cuda, "graph", capture)
    return made
