"""k-NN: search and vote against a chunked one-hot vote and against bare FAISS. `python benchmarks/knn.py`"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.alternate import Goal, Row, alternate, benchmark_parser, finish, measure_in_turn, peak, reset_peak
from core.distributed import Processes
from core.features import Features

KS, TEMPERATURE = (10, 20), 0.07
ALONE = Processes(0, 1, torch.device("cpu"))
IMAGENET_BANK, IMAGENET_QUERIES, R50_WIDTH = 1_281_167, 50_000, 2048


def main() -> None:
    """Times in turn, measures peak memory in processes of its own, fits cost against bank size."""
    parser = benchmark_parser("Compare ways to classify queries by their nearest neighbours.", rounds=3)
    parser.add_argument("--bank", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=5_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--banks", type=int, nargs="*", default=[25_000, 50_000, 100_000, 200_000, 400_000])
    parser.add_argument("--bank-queries", type=int, default=1_000, help="queries for the curve over bank sizes")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the curve over bank sizes")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    import faiss

    faiss.omp_set_num_threads(arguments.threads)
    if arguments.memory:
        print(json.dumps(_memory_here(arguments)))
        return
    rows = [*speed_rows(arguments), memory_row(arguments)]
    curve, fit = bank_curve(arguments)
    rows += curve
    if arguments.plot:
        draw(arguments, fit)
    finish("knn", arguments, rows, **fit)


def speed_rows(arguments: argparse.Namespace) -> list[Row]:
    """The three ways over the same features; they agree in their accuracies before they are timed."""
    bank, queries = features(arguments.bank, arguments, 0), features(arguments.queries, arguments, 1)
    few = features(min(arguments.queries, 250), arguments, 1)
    found = ours(bank, few)
    for k in KS:
        plain = one_hot_vote(bank, few, arguments.classes, k)
        assert abs(found[f"weighted_top1_k{k}"] - plain) < 0.1, (k, found, plain)
    values = alternate(
        {
            "ours": lambda: ours(bank, queries),
            "chunked one-hot vote": lambda: one_hot_vote(bank, queries, arguments.classes, max(KS)),
            "bare FAISS search and vote": lambda: bare_faiss(bank, queries, arguments.classes),
        },
        arguments.rounds,
        warm_up=0,
    )
    what = f"k-NN, bank {arguments.bank:,} × {arguments.width}, {arguments.queries:,} queries"
    note = "for k 20 alone, where ours votes for k 10 and 20; the public code searches anew for each k"
    return [
        Row(what, "s", values, ("chunked one-hot vote", "ours"), Goal("≥", 6), note),
        Row(f"{what}, k 10 and 20", "s", values, ("ours", "bare FAISS search and vote"), Goal("≤", 1.1)),
    ]


def ours(bank: Features, queries: Features) -> dict[str, float]:
    """Accuracies in percent, by the code that the k-NN evaluation runs."""
    from evaluate.probes.knn.protocol import knn_accuracy

    return knn_accuracy(bank, queries, ALONE, KS, TEMPERATURE)


def one_hot_vote(bank: Features, queries: Features, classes: int, k: int, chunks: int = 500) -> float:
    """Weighted top-1 in percent: per chunk of queries all similarities, their k largest, a one-hot row for each."""
    keys, values = torch.from_numpy(bank.values).T, torch.from_numpy(bank.labels)
    size, right = max(1, len(queries.labels) // chunks), 0
    for start in range(0, len(queries.labels), size):
        asked = torch.from_numpy(queries.values[start : start + size])
        similarities, rows = (asked @ keys).topk(k)
        one_hot = torch.zeros(*rows.shape, classes).scatter_(2, values[rows][:, :, None], 1)
        votes = (one_hot * similarities.div(TEMPERATURE).exp()[:, :, None]).sum(1)
        ranked = votes.argsort(dim=1, descending=True)
        right += int((ranked[:, 0] == torch.from_numpy(queries.labels[start : start + size])).sum())
    return 100 * right / len(queries.labels)


def bare_faiss(bank: Features, queries: Features, classes: int) -> list[float]:
    """A flat index that is filled and searched once, and a vote by adding up weights per query and class."""
    import faiss

    index = faiss.IndexFlatIP(bank.values.shape[1])
    index.add(bank.values)
    similarities, rows = index.search(queries.values, max(KS))
    weights = np.exp(similarities / TEMPERATURE)
    accuracies = []
    for k in KS:
        votes = np.zeros((len(rows), classes), np.float32)
        np.add.at(votes, (np.arange(len(rows))[:, None], bank.labels[rows[:, :k]]), weights[:, :k])
        accuracies.append(100 * float((votes.argmax(1) == queries.labels).mean()))
    return accuracies


def features(count: int, arguments: argparse.Namespace, seed: int) -> Features:
    """Unit vectors around random class centres, so that accuracies are neither 0 nor 100 %."""
    centres = np.random.default_rng(7).standard_normal((arguments.classes, arguments.width), np.float32)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, arguments.classes, count)
    values = rng.standard_normal((count, arguments.width), np.float32)
    values *= 4
    for start in range(0, count, 8192):
        values[start : start + 8192] += centres[labels[start : start + 8192]]
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    names = tuple(map(str, range(arguments.classes)))
    return Features(values, labels, np.arange(count), "random", names, ())


def memory_row(arguments: argparse.Namespace) -> Row:
    """Peak memory of a process that classifies, its libraries loaded before, over the size of the features."""
    sizes = ("bank", "queries", "width", "classes", "threads")
    command = [sys.executable, __file__, *(part for key in sizes for part in (f"--{key}", str(vars(arguments)[key])))]
    found = json.loads(subprocess.run([*command, "--memory"], capture_output=True, check=True).stdout)
    return Row(
        "peak memory of k-NN", "MB", {way: [value] for way, value in found.items()},
        ratio=("ours", "the features themselves"), goal=Goal("≤", 1.25),
    )  # fmt: skip


def _memory_here(arguments: argparse.Namespace) -> dict[str, float]:
    small = argparse.Namespace(**{**vars(arguments), "bank": 2 * arguments.classes, "queries": 100})
    ours(features(small.bank, small, 0), features(small.queries, small, 1))  # imports and warms up everything
    bank, queries = features(arguments.bank, arguments, 0), features(arguments.queries, arguments, 1)
    held = (bank.values.nbytes + queries.values.nbytes) / 1e6
    before = reset_peak()
    ours(bank, queries)
    return {"ours": peak() - before + held, "the features themselves": held}


def bank_curve(arguments: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """Time against bank size, a line through it, and what the line says of ImageNet."""
    queries = features(arguments.bank_queries, arguments, 1)

    def timed(size: int) -> Callable[[], float]:
        def measure() -> float:
            bank = features(size, arguments, 0)
            started = time.perf_counter()
            ours(bank, queries)
            return time.perf_counter() - started

        return measure

    taken = measure_in_turn({f"{size:,} images": timed(size) for size in arguments.banks}, arguments.rounds, warm_up=0)
    seconds = np.array([statistics.median(values) for values in taken.values()])
    sizes = np.array(arguments.banks, np.float64)
    slope, start = np.polyfit(sizes, seconds, 1)
    # In proportion to the size: the slope of the logarithms is 1 for a cost that is linear.
    power = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    full = slope * IMAGENET_BANK * (IMAGENET_QUERIES / arguments.bank_queries) * (R50_WIDTH / arguments.width)
    largest = max(zip(arguments.banks, taken, strict=True))[1]
    smallest = min(zip(arguments.banks, taken, strict=True))[1]
    note = (
        f"cost grows as size^{power:.2f}; a line through it gives {full / 3600:.2f} h for {IMAGENET_BANK:,} × "
        f"{R50_WIDTH} and {IMAGENET_QUERIES:,} queries here (work taken as proportional to width and queries)"
    )
    row = Row(
        f"k-NN against the size of the bank, {arguments.bank_queries:,} queries",
        "s",
        taken,
        (largest, smallest),
        note=note,
    )
    fit = {
        "banks": arguments.banks, "bank_seconds": seconds.tolist(), "slope": float(slope), "start": float(start),
        "power": power, "imagenet_r50_hours": full / 3600,
    }  # fmt: skip
    return [row], fit


def draw(arguments: argparse.Namespace, fit: dict[str, Any]) -> None:
    """The curve as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.add_subplot(xlabel="images in the bank", ylabel="seconds", ylim=(0, 1.1 * max(fit["bank_seconds"])))
    sizes: NDArray[Any] = np.array([0, *fit["banks"]])
    axes.plot(sizes, fit["start"] + fit["slope"] * sizes, color="0.7", zorder=1)
    axes.scatter(fit["banks"], fit["bank_seconds"], zorder=2)
    axes.set_title(f"k-NN of {arguments.bank_queries:,} queries, {arguments.width} dimensions", fontsize=10)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    figure.savefig(arguments.plot, dpi=110)


if __name__ == "__main__":
    main()
