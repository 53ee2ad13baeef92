"""k-NN search on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.alternate import Row, alternate, synchronise
from benchmarks.on_gpu.parts import Found, Job
from core.distributed import Processes
from evaluate.probes.knn.search import nearest, open_engine, products_on


def knn(job: Job) -> Found:
    """Exact search from host memory as the probe calls it, and bare products with top-k on features that are there."""
    rounds, count = job.arguments.rounds, job.arguments.bank
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randn(rows, 384, generator=generator).numpy() for rows in (count, count // 20))
    there = [torch.from_numpy(values).to(job.device) for values in (bank, queries)]

    def bare() -> None:
        for part in there[1].split(1024):
            (part @ there[0].T).topk(20)
        synchronise(job.device)

    engine = products_on(job.device)
    ways: dict[str, Callable[[], object]] = {engine.name: lambda: nearest(engine, bank, queries, 20)}
    try:
        own = open_engine(Processes(0, 1, job.device))
    except Exception as error:  # FAISS isn't needed here
        print(f"k-NN: {error}")
    else:
        if own.name != engine.name and own.on_gpu:
            ways[own.name] = lambda: nearest(own, bank, queries, 20)
    first = next(iter(ways))
    ways["matrix product and top-k"] = bare
    what = f"k-NN search, bank {count:,} × 384, {len(queries):,} queries, k 20"
    return Found([Row(what, "s", alternate(ways, rounds), (first, "matrix product and top-k"))])
