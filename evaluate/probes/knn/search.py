"""Exact nearest neighbours by inner product: FAISS on the CPU or on GPUs, over a bank that ranks may share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from core.distributed import Processes, gather_rows
from core.errors import UserError
from core.features import Features
from core.project import extra

_QUERIES = 1024
"""Queries per call on the CPU: FAISS's own buffers grow with them, its speed no longer does."""


@dataclass(frozen=True)
class Engine:
    """A way to search. Makes no copy of a float32 bank on the CPU."""

    name: str
    """For the plan, e.g. `FAISS 1.11 on the CPU`."""
    find: Callable[[NDArray[np.float32], NDArray[np.float32], int], tuple[NDArray[np.float32], NDArray[np.int64]]]
    """(queries [Q, D], bank [N, D], k ≤ N) -> inner products, descending, and rows of the bank, both [Q, k]."""
    on_gpu: bool
    """True if each call copies the bank to a GPU."""


@dataclass(frozen=True)
class Neighbours:
    """The k images of the bank that are nearest to each of Q queries, nearest first."""

    similarities: NDArray[np.float32]
    """Inner products, [Q, k]."""
    labels: NDArray[np.int32]
    """Classes of the neighbours, [Q, k]."""
    positions: NDArray[np.int32]
    """Positions of the neighbours in the bank's image set, [Q, k]."""


def open_engine(processes: Processes, all_gpus: bool = False) -> Engine:
    """FAISS on the process's device; torch's products on a GPU for which the installed FAISS has no support.

    `all_gpus`: every GPU that FAISS sees searches a part of the bank, rather than the process's own GPU alone.
    Raises `UserError` where FAISS is missing.
    """
    try:
        import faiss
    except ImportError:
        raise UserError(f"k-NN searches with FAISS, which is missing: {extra('faiss-cpu')} (or [faiss-gpu])") from None

    count = faiss.get_num_gpus() if processes.device.type == "cuda" and hasattr(faiss, "StandardGpuResources") else 0
    if count == 0 and processes.device.type == "cuda":
        return products_on(processes.device)
    if count == 0:

        def on_cpu(queries: NDArray[Any], bank: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
            return faiss.knn(queries, bank, k, metric=faiss.METRIC_INNER_PRODUCT)

        return Engine(f"FAISS {faiss.__version__} on the CPU", on_cpu, on_gpu=False)

    gpus = list(range(count)) if all_gpus else [processes.device.index]
    resources = [faiss.StandardGpuResources() for _ in gpus]

    def on_gpus(queries: NDArray[Any], bank: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
        bounds = np.linspace(0, len(bank), len(gpus) + 1, dtype=np.int64)

        def on_one(i: int) -> tuple[NDArray[Any], NDArray[Any]]:
            part = bank[bounds[i] : bounds[i + 1]]
            found, rows = faiss.knn_gpu(
                resources[i], queries, part, min(k, len(part)), metric=faiss.METRIC_INNER_PRODUCT, device=gpus[i]
            )
            return found, rows + bounds[i]

        with ThreadPoolExecutor(len(gpus)) as threads:
            found = list(threads.map(on_one, [i for i in range(len(gpus)) if bounds[i] < bounds[i + 1]]))
        similarities, rows = (np.concatenate(lists, axis=1) for lists in zip(*found, strict=True))
        similarities, rows = _best(similarities, rows, k=k)
        return similarities, rows

    return Engine(f"FAISS {faiss.__version__} on {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}", on_gpus, on_gpu=True)


def products_on(device: torch.device) -> Engine:
    """Exhaustive search by fp32 products and torch.topk, a block of queries at a time."""

    def search(queries: NDArray[Any], bank: NDArray[Any], k: int) -> tuple[NDArray[Any], NDArray[Any]]:
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")  # TF32 would round to 10 bits
        try:
            columns = torch.from_numpy(np.ascontiguousarray(bank)).to(device).T
            asked = torch.from_numpy(np.ascontiguousarray(queries)).to(device)
            found = [(part @ columns).topk(k, dim=1) for part in asked.split(_QUERIES)]
        finally:
            torch.set_float32_matmul_precision(precision)
        return (
            torch.cat([similarities for similarities, _ in found]).cpu().numpy(),
            torch.cat([rows for _, rows in found]).cpu().numpy(),
        )

    return Engine(f"torch {torch.__version__} on {device.type}", search, on_gpu=True)


def nearest(
    engine: Engine,
    bank: NDArray[Any],
    queries: NDArray[Any],
    k: int,
    chunk: int = 65536,
    progress: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Inner products, descending, and rows of the bank: both [Q, k].

    bank [N, D], queries [Q, D], float32 or float16. A float32 bank on the CPU is searched where it lies; otherwise
    `chunk` rows at a time are brought to float32 and the lists merged, which gives the same neighbours. Where the
    bank has fewer than k rows the lists end in −inf and −1.
    """
    similarities = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int32)
    step = chunk if engine.on_gpu or bank.dtype != np.float32 else max(len(bank), 1)
    size = max(len(queries), 1) if engine.on_gpu else _QUERIES
    calls = [(first, start) for first in range(0, len(bank), step) for start in range(0, len(queries), size)]
    part, at = bank[:0], -1
    for first, start in tqdm(calls, desc="search", unit="block", disable=not progress):
        if first != at:
            part, at = np.ascontiguousarray(bank[first : first + step], np.float32), first
        block = slice(start, start + size)
        asked = np.ascontiguousarray(queries[block], np.float32)
        found, found_rows = engine.find(asked, part, min(k, len(part)))
        if first > 0:
            found = np.concatenate([similarities[block], found], axis=1)
            found_rows = np.concatenate([rows[block], found_rows + first], axis=1)
            found, found_rows = _best(found, found_rows, k=k)
        similarities[block, : found.shape[1]], rows[block, : found.shape[1]] = found, found_rows
    return similarities, rows


def nearest_over_ranks(
    engine: Engine,
    bank: Features,
    queries: Features,
    k: int,
    processes: Processes,
    chunk: int = 65536,
    progress: bool = False,
) -> Neighbours:
    """The k nearest of the banks of all ranks, on every rank. `queries` are the same on each of them.

    Each rank searches its own part; the lists are merged by similarity, ties by position.
    """
    similarities, rows = nearest(engine, bank.values, queries.values, k, chunk, progress)
    labels, positions = np.full(rows.shape, -1, np.int32), np.full(rows.shape, -1, np.int32)
    for start in range(0, len(rows), _QUERIES):
        block = slice(start, start + _QUERIES)
        found = rows[block] >= 0
        labels[block][found] = bank.labels[rows[block][found]]
        positions[block][found] = bank.positions[rows[block][found]]
        if processes.world_size > 1:
            lists = [_side_by_side(column[block], processes) for column in (similarities, labels, positions)]
            similarities[block], labels[block], positions[block] = _best(lists[0], *lists[1:], k=k)
    if (positions < 0).any():
        raise UserError(
            f"fewer than {k} neighbours found in {bank.name}: the features are not finite or the bank is too small"
        )
    return Neighbours(similarities, labels, positions)


def _side_by_side(column: NDArray[Any], processes: Processes) -> NDArray[Any]:
    """[Q, k] on each rank -> [Q, world · k]."""
    stacked = gather_rows(torch.from_numpy(column).to(processes.device)).cpu().numpy()
    return np.concatenate(np.split(stacked, processes.world_size), axis=1)


def _best(similarities: NDArray[Any], *columns: NDArray[Any], k: int) -> tuple[NDArray[Any], ...]:
    """The k largest similarities of each row, descending (ties: leftmost first), and the values that belong to them."""
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return tuple(np.take_along_axis(column, order, axis=1) for column in (similarities, *columns))
