"""Kernels of NVIDIA's libraries: products rounded to TF32, and convolutions tuned to their shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Tf32 = Literal["none", "convolutions", "all"]


@contextmanager
def kernels(device: torch.device, tf32: Tf32, tune: bool) -> Iterator[None]:
    """Context in which fp32 arithmetic on a GPU uses the chosen kernels; on CPUs nothing changes.

    `tf32`: operations whose fp32 operands are rounded to TF32's 10 bits; `all`: convolutions and matrix products.
    `tune`: cuDNN tries its kernels at the first convolution of each shape and keeps the fastest.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.benchmark, products.allow_tf32
    cudnn.allow_tf32, cudnn.benchmark, products.allow_tf32 = tf32 != "none", tune, tf32 == "all"
    try:
        yield
    finally:
        cudnn.allow_tf32, cudnn.benchmark, products.allow_tf32 = before
