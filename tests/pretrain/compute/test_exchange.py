"""core/compute/exchange.py: the bits of one all-reduce after the step, sent while the last backward pass runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from core.compute.exchange import GradientExchange
from tests.torchrun import torchrun


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    out = tmp_path_factory.mktemp("two") / "found.pt"
    done = torchrun(Path(__file__).parent / "exchange_of_a_rank.py", str(out))
    assert done.returncode == 0, done.stderr
    return torch.load(out, weights_only=True)


def test_gradients_have_the_bits_of_one_all_reduce(of_two_ranks: list[dict[str, dict[str, Any]]]) -> None:
    for found in of_two_ranks:
        assert len(found) == 9
        for case in found.values():
            assert case["same"] == [True] * case["parameters"]


def test_most_buckets_leave_during_the_last_backward_pass(of_two_ranks: list[dict[str, dict[str, Any]]]) -> None:
    for found in of_two_ranks:
        for name, case in found.items():
            if name != "two heads":
                assert case["buckets"] > 5
                assert case["buckets"] - case["early"] <= 1, name


def test_alone_gradients_stay_as_they_are() -> None:
    layer = nn.Linear(2, 1)
    exchange = GradientExchange(layer.parameters())
    loss = layer(torch.ones(1, 2)).sum()
    exchange.expect(loss)
    loss.backward()
    exchange.finish()
    assert torch.equal(layer.weight.grad, torch.ones(1, 2))
    assert len(exchange) == 0
