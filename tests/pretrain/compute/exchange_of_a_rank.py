"""Run under torchrun by test_exchange.py: gradients averaged at once and in buckets, from equal starts."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch
from torch import Tensor, nn

from core.compute.exchange import GradientExchange
from core.config import load_config
from core.distributed import average_gradients, gather_objects, init_distributed
from pretrain.config import PretrainConfig
from pretrain.method import Method
from tests.pretrain.gradients_of_a_rank import OBJECTIVES, RECIPE

SMALL = 4000
"""Bytes of a bucket, so that even small networks fill many."""


def one_step(overrides: list[str], rank: int, buckets: bool) -> tuple[list[Tensor | None], int, int]:
    """Gradients of a step in fp32, and how many buckets there are and were sent before the last pass ended."""
    torch.manual_seed(0)
    method = Method(load_config(PretrainConfig, None, RECIPE + overrides), torch.device("cpu"), rank)
    parameters = list(method.online.parameters())
    exchange = GradientExchange(parameters, SMALL)
    generator = torch.Generator().manual_seed(1 + rank)
    views = {
        name: [torch.randn(2, 3, view.size, view.size, generator=generator) for _ in range(view.count)]
        for name, view in method.config.views.items()
    }
    early = 0
    if buckets:
        method.backward(views, before=lambda of: exchange.expect(of.loss) if of.left == 0 else None)
        early = exchange.sent
        exchange.finish()
    else:
        method.backward(views)
        average_gradients(parameters)
    return [parameter.grad for parameter in parameters], len(exchange), early


def two_heads(rank: int, buckets: bool) -> list[Tensor | None]:
    """Gradients where the ranks use different heads, and none uses the third; the trunk is used in both passes."""
    torch.manual_seed(0)
    trunk, heads = nn.Linear(4, 4), nn.ModuleList(nn.Linear(4, 1) for _ in range(3))
    parameters = [*trunk.parameters(), *heads.parameters()]
    exchange = GradientExchange(parameters, 8)
    images = torch.randn(3, 4, generator=torch.Generator().manual_seed(rank))
    heads[rank](trunk(images)).sum().backward()
    last = heads[1 - rank](trunk(images)).square().sum() if rank else trunk(images).square().sum()
    if buckets:
        exchange.expect(last)
    last.backward()
    if buckets:
        exchange.finish()
    else:
        average_gradients(parameters)
    return [parameter.grad for parameter in parameters]


if __name__ == "__main__":
    processes = init_distributed("cpu")
    found = {}
    for name in ("byol", "simsiam", "mocov3", "dino"):
        for mode in ("per_view", "packed"):
            sync = str(name == "byol").lower()  # whose many small exchanges lie between the buckets
            settings = [*OBJECTIVES[name], f"compute.backward={mode}", f"compute.sync_bn={sync}"]
            flat, _, _ = one_step(settings, processes.rank, buckets=False)
            split, count, early = one_step(settings, processes.rank, buckets=True)
            same = [torch.equal(a, b) for a, b in zip(flat, split, strict=True) if a is not None and b is not None]
            found[f"{name} {mode}"] = {"same": same, "parameters": len(flat), "buckets": count, "early": early}
    flat, split = (two_heads(processes.rank, buckets) for buckets in (False, True))
    found["two heads"] = {
        "same": [torch.equal(a, b) for a, b in zip(flat, split, strict=True)],
        "parameters": len(flat),
    }
    everywhere = gather_objects(found)
    if processes.is_main:
        torch.save(everywhere, sys.argv[1])
