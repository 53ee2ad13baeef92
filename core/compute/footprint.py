"""Memory of tensors as operations allocate and free it; together with fake tensors, before anything is computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Footprint(TorchDispatchMode):
    """Context that counts the bytes of all storages which operations within it return, until they are freed.

    Storages of before, and views of them, are not counted. What an operation allocates for itself alone (workspaces of
    libraries) is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        """Bytes in use."""
        self.peak = 0
        """Largest `now` so far."""
        self._known: set[int] = set()

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function is torch.ops.prim.device.default:  # asked several times per operation
            return args[0].fake_device if isinstance(args[0], FakeTensor) else function(*args)
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        found = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor) and (key := leaf.untyped_storage()._cdata) not in given | self._known:
                size = leaf.untyped_storage().nbytes()
                self._known.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(leaf.untyped_storage(), self._release, key, size)
        return found


@contextmanager
def fake_tensors() -> Iterator[FakeTensorMode]:
    """Context in which tensors have shapes, dtypes and storages of the right size, but no memory."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def without_memory(module: nn.Module) -> None:
    """Replaces the meta tensors of a network (`core.compute.shapes`) by fake ones of the CPU, with gradients.

    To be called within `fake_tensors`.
    """
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if not isinstance(parameter, FakeTensor):
                fake = nn.Parameter(torch.empty_like(parameter, device="cpu"), requires_grad=parameter.requires_grad)
                part.register_parameter(name, fake)
        for name, buffer in part.named_buffers(recurse=False):
            if not isinstance(buffer, FakeTensor):
                setattr(part, name, torch.empty_like(buffer, device="cpu"))
