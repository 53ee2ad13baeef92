"""Names of floating-point precisions in configs, and what they are in torch."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
OLD_NAMES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""Names in configs and results of the past -> today's."""


def dtype_name(precision: str) -> str:
    """torch's and NumPy's name, e.g. `float32`, which file formats and digests keep."""
    return str(DTYPES[precision]).removeprefix("torch.")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Context in which a forward pass runs in the precision."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")
