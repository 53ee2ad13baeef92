"""Mixed precision on the CPU: the engine's own class for it works on accelerators only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from mmseg.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CpuAutocastOptimWrapper(OptimWrapper):
    """Runs the forward pass in bfloat16, which needs no loss scaling."""

    @contextmanager
    def optim_context(self, model: Any) -> Iterator[None]:
        """Autocast around the engine's own context."""
        with super().optim_context(model), torch.autocast("cpu", torch.bfloat16):
            yield
