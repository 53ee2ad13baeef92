"""core/compute/kernels.py: flags of a GPU are set within the context and restored after it; a CPU's stay."""

from __future__ import annotations

import pytest
import torch

from core.compute.kernels import Tf32, kernels


def flags() -> tuple[bool, bool, bool]:
    return (
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.backends.cuda.matmul.allow_tf32,
    )


@pytest.mark.parametrize(
    ("tf32", "tune", "expected"),
    [
        ("none", False, (False, False, False)),
        ("convolutions", True, (True, True, False)),
        ("all", False, (True, False, True)),
    ],
)
def test_flags_hold_within_the_context_alone(tf32: Tf32, tune: bool, expected: tuple[bool, bool, bool]) -> None:
    before = flags()
    assert before == (True, False, False), "torch's defaults"
    with kernels(torch.device("cpu"), tf32, tune):
        assert flags() == before
    with kernels(torch.device("cuda"), tf32, tune):
        assert flags() == expected
    assert flags() == before
