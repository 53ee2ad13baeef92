"""Fake CUDA tensors: shapes, dtypes and devices of a GPU without one, and an error wherever the host would wait for it.

A tensor left on the CPU is an error of the operation that mixes it with one of the device. So is a value read back
(`.item()`, a branch, a boolean index), and a copy between the two that isn't `non_blocking`. Autograd needs a real
device: only forward passes work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class WaitsForTheDevice(AssertionError):
    """A copy between host and device for which the host waits."""


class _NoWaiting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.copies: list[str] = []

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function in _COPIES:
            source = args[1] if function is torch.ops.aten.copy_.default else args[0]
            target = args[0].device if function is torch.ops.aten.copy_.default else kwargs.get("device")
            waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
            if target is not None and torch.device(target).type != source.device.type:
                self.copies.append(f"{function} from {source.device} to {target}")
                if waits:
                    raise WaitsForTheDevice(f"{self.copies[-1]} is not non_blocking")
        return function(*args, **kwargs)


@contextmanager
def fake_cuda(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Context in which all new tensors are fake, and those of `cuda` claim to lie on a GPU.

    `nn.Module.to` moves networks there that were built on the meta device, outside of the context.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def fake(tensor: Tensor, device: torch.device) -> Tensor:
        if isinstance(tensor, FakeTensor):
            return tensor
        return torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.detach().to(device)

    def move(module: nn.Module, device: torch.device, **_layout: Any) -> nn.Module:
        with mode:
            for part in module.modules():
                for name, parameter in part.named_parameters(recurse=False):
                    if not isinstance(parameter, FakeTensor):
                        moved = nn.Parameter(fake(parameter, device), requires_grad=parameter.requires_grad)
                        part.register_parameter(name, moved)
                for name, buffer in part.named_buffers(recurse=False):
                    setattr(part, name, fake(buffer, device))
        return module

    patch.setattr(nn.Module, "to", move)
    with mode:
        yield


@contextmanager
def no_waiting() -> Iterator[None]:
    """Context within `fake_cuda` in which copies that wait for the device raise `WaitsForTheDevice`."""
    with _NoWaiting():
        yield


@contextmanager
def copies_noted() -> Iterator[list[str]]:
    """As `no_waiting`; gives the list of all copies between host and device."""
    with _NoWaiting() as mode:
        yield mode.copies
