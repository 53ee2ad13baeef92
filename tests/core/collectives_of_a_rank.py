"""Run under torchrun by test_distributed.py: what each collective gives on this rank."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import nn

from core.compute.sync_norm import synchronise_norms
from core.distributed import (
    average_gradients,
    broadcast_weights,
    gather_objects,
    gather_rows,
    init_distributed,
    raise_on_all_ranks,
    rank_zero_first,
    sum_over_ranks,
)
from core.errors import UserError

if __name__ == "__main__":
    out = Path(sys.argv[1])
    processes = init_distributed("cpu")
    rank = processes.rank
    found: dict[str, object] = {
        "gathered": gather_rows(torch.arange(4).view(2, 2) + 10 * rank),
        "sum": sum_over_ranks(torch.tensor(rank + 1)),
        "objects": gather_objects({"rank": rank}),
    }
    raise_on_all_ranks("" if rank == 0 else "rank 1 has nothing to say")
    try:
        raise_on_all_ranks("no such folder" if rank == 0 else "")
    except UserError as error:
        found["refused"] = str(error)
    layer, lonely = nn.Linear(2, 1, bias=False), nn.Parameter(torch.zeros(2))
    layer.weight.grad = torch.full((1, 2), 1.0 + 2 * rank)
    if rank == 1:
        lonely.grad = torch.full((2,), 5.0)
    average_gradients([layer.weight, lonely])
    found |= {"gradient": layer.weight.grad, "one_sided": lonely.grad}
    with torch.no_grad():
        layer.weight.fill_(7 + rank)
    broadcast_weights(layer)
    found["broadcast"] = layer.weight[0, 0].detach()
    with rank_zero_first():
        order = ["rank 0 first"] if rank == 0 or (out / "filled").exists() else ["too early"]
        (out / "filled").touch()
        found["order"] = order + ([f"rank {rank}"] if rank else [])
    try:
        with rank_zero_first():
            if rank == 0:
                raise UserError("no such folder")
            found["after_an_error"] = True  # rank 1 is not left in the barrier
    except UserError:
        found["after_an_error"] = rank == 0

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    part = slice(4 * rank, 4 * rank + 4)
    mine = inputs[part].clone().requires_grad_()
    norm = synchronise_norms(nn.Sequential(nn.BatchNorm1d(3, dtype=torch.float64)), processes.device)
    (norm(mine) * weights[part]).sum().backward()
    found |= {"all_inputs": inputs, "weights": weights, "input_gradient": mine.grad}
    found |= {"running_mean": norm[0].running_mean, "running_var": norm[0].running_var}
    torch.save(found, out / f"rank{rank}.pt")
