"""evaluate/probes/knn/search.py: against brute force, in bounded memory."""

from __future__ import annotations

import sys
import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from core.distributed import Processes
from core.errors import UserError
from evaluate.probes.knn.protocol import accuracies
from evaluate.probes.knn.search import nearest, nearest_over_ranks, open_engine
from tests.evaluate.probes.knn.unit_features import features, unit_rows

ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("storage", [np.float32, np.float16])
@pytest.mark.parametrize("k", [1, 7, 150])
def test_search_equals_brute_force(storage: type, k: int) -> None:
    bank, queries = unit_rows(900, 24, 0).astype(storage), unit_rows(1100, 24, 1).astype(storage)
    similarities, rows = nearest(open_engine(ALONE), bank, queries, k, chunk=128)
    products = queries.astype(np.float64) @ bank.astype(np.float64).T
    expected = np.argsort(-products, axis=1, kind="stable")[:, :k]
    assert (rows == expected).mean() > 0.9999  # float32 sums may swap two neighbours that are equal to seven digits
    np.testing.assert_allclose(similarities, np.take_along_axis(products, expected, axis=1), atol=1e-6)


def test_a_list_longer_than_the_bank_ends_in_nothing() -> None:
    similarities, rows = nearest(open_engine(ALONE), unit_rows(3, 8, 0), unit_rows(2, 8, 1), 5)
    assert (rows[:, 3:] == -1).all()
    assert (similarities[:, 3:] == -np.inf).all()
    assert sorted(rows[0, :3].tolist()) == [0, 1, 2]
    assert (nearest(open_engine(ALONE), unit_rows(3, 8, 0)[:0], unit_rows(2, 8, 1), 2)[1] == -1).all()


@pytest.mark.parametrize(("storage", "share"), [(np.float32, 0.2), (np.float16, 0.5)])
def test_search_and_vote_copy_no_bank(storage: type, share: float) -> None:
    bank = features(unit_rows(40_000, 256, 0).astype(storage), np.arange(40_000) % 10, 10)
    queries = features(unit_rows(1500, 256, 1), np.arange(1500) % 10, 10)
    engine = open_engine(ALONE)
    tracemalloc.start()
    neighbours = nearest_over_ranks(engine, bank, queries, 50, ALONE, chunk=4096)
    accuracies(neighbours, queries.labels, 10, (10, 50), 0.07)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < share * bank.values.nbytes


@pytest.mark.parametrize("all_gpus", [False, True])
def test_gpus_divide_the_bank(monkeypatch: pytest.MonkeyPatch, all_gpus: bool) -> None:
    """With a FAISS whose three GPUs are the CPU: the arithmetic around `knn_gpu`, not `knn_gpu` itself."""
    import faiss

    used = []

    def knn_gpu(resources: Any, queries: Any, bank: Any, k: int, metric: Any, device: int) -> Any:
        assert k <= len(bank)
        used.append(device)
        return faiss.knn(queries, bank, k, metric=metric)

    fake = SimpleNamespace(
        get_num_gpus=lambda: 3,
        StandardGpuResources=object,
        knn_gpu=knn_gpu,
        METRIC_INNER_PRODUCT=faiss.METRIC_INNER_PRODUCT,
        __version__="0",
    )
    bank, queries = unit_rows(100, 16, 0), unit_rows(30, 16, 1)
    expected = nearest(open_engine(ALONE), bank, queries, 20)
    monkeypatch.setitem(sys.modules, "faiss", fake)
    engine = open_engine(Processes(0, 1, torch.device("cuda", 1)), all_gpus)
    assert engine.name == ("FAISS 0 on 3 GPUs" if all_gpus else "FAISS 0 on 1 GPU")
    found = nearest(engine, bank, queries, 20, chunk=37)
    assert np.array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    assert set(used) == ({0, 1, 2} if all_gpus else {1})


def test_missing_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[faiss-cpu\]'"):
        open_engine(ALONE)
