"""Everything of interest on a GPU in one call of some minutes: parity, step, augmentation, k-NN.

`python benchmarks/gpu.py --json found.json`
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch

from benchmarks.alternate import Goal, Row, alternate, benchmark_parser, finish, synchronise
from benchmarks.step import add_network_arguments, config_of, make_step, parity_rows, speed_row
from pretrain.config import PretrainConfig
from pretrain.views.augment import augment
from pretrain.views.collate import Sample, View, collate
from pretrain.views.config import PhotometricConfig, ViewConfig
from pretrain.views.dataset import draw_photometric

PARTS = ("parity", "step, fp32", "step, bf16", "augmentation", "k-NN", "step, bf16, compiled")


def main() -> None:
    """Runs part by part until the time is up, and says which parts it had no time for."""
    parser = benchmark_parser("Measure parity and speed on a GPU.", rounds=5)
    parser.add_argument("--device", default="cuda")
    add_network_arguments(parser)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3, help="steps per round")
    parser.add_argument("--bank", type=int, default=100_000, help="images in the bank of k-NN")
    parser.add_argument("--parity-steps", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=8, help="no part is begun after this long")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    started = time.monotonic()
    parts: dict[str, Callable[[], list[Row]]] = {
        "parity": lambda: parity_rows(device, arguments.parity_steps),
        "step, fp32": lambda: [_speed(arguments, device, "fp32")],
        "step, bf16": lambda: [_speed(arguments, device, "bf16")],
        "augmentation": lambda: [augmentation_row(arguments, device)],
        "k-NN": lambda: knn_rows(arguments, device),
        "step, bf16, compiled": lambda: [_speed(arguments, device, "bf16", compiled=True)],
    }
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    for name in arguments.parts:
        if time.monotonic() - started > 60 * arguments.minutes:
            print(f"no time left for: {name}")
            continue
        begun = time.monotonic()
        rows += parts[name]()
        seconds[name] = time.monotonic() - begun
        print(f"{name}: {seconds[name]:.0f} s", flush=True)
    finish("gpu", arguments, rows, seconds=seconds)


def _speed(arguments: argparse.Namespace, device: torch.device, precision: str, compiled: bool = False) -> Row:
    config = config_of(arguments, precision)
    variants = {"ours, compiled": dataclasses.replace(config.compute, compile=True)} if compiled else None
    return speed_row(config, device, arguments.batch, arguments.steps, arguments.rounds, 1.5, variants)


def augmentation_row(arguments: argparse.Namespace, device: torch.device) -> Row:
    """Steps in bf16 with the device stage of their five views, over steps on finished views.

    Within a run nothing waits for the device, so the host prepares the next views while the device computes. `five
    views alone` waits for the device and is mostly the host's time for launching kernels.
    """
    config = config_of(arguments, "bf16")
    step = make_step("ours", config, device, arguments.batch)
    views = _uint8_views(config, arguments.batch, device)
    mean, std = config.backbone.mean, config.backbone.std

    def five() -> None:
        for view_config, view in views:
            augment(view.images, view.parameters, view_config, mean, std)

    def run(*works: Callable[[], object]) -> None:
        for _ in range(arguments.steps):
            for work in works:
                work()
        synchronise(device)

    ways = {
        "steps with five views": partial(run, five, step),
        "steps": partial(run, step),
        "five views alone": partial(run, five),
    }
    values = alternate(ways, arguments.rounds, scale=1000 / arguments.steps)
    what = f"a step in bf16 with colours, blur and normalisation of its five views, batch {arguments.batch}"
    return Row(what, "ms", values, ("steps with five views", "steps"), Goal("≤", 1.05))


def _uint8_views(config: PretrainConfig, batch: int, device: torch.device) -> list[tuple[ViewConfig, View]]:
    rng, recipe = np.random.default_rng(0), PhotometricConfig()
    views = []
    for view_config in config.views.values():
        plain = dataclasses.replace(view_config, transform=None)
        for _ in range(view_config.count):
            pixels = [torch.from_numpy(rng.integers(0, 256, (view_config.size, view_config.size, 3), np.uint8))]
            samples = [
                Sample({"v": [View(pixels[0].permute(2, 0, 1), draw_photometric(recipe, rng))]}, 0, [])
                for _ in range(batch)
            ]
            view = collate(samples).views["v"][0]
            views.append((plain, dataclasses.replace(view, images=view.images.to(device))))
    return views


def knn_rows(arguments: argparse.Namespace, device: torch.device) -> list[Row]:
    """Exact search on the device: FAISS where it has a GPU build, and torch's product with top-k beside it."""
    rng = np.random.default_rng(0)
    bank, queries = (rng.standard_normal((count, 384), np.float32) for count in (arguments.bank, arguments.bank // 20))
    on_device = [torch.from_numpy(values).to(device) for values in (bank, queries)]

    def by_torch() -> None:
        for part in on_device[1].split(1024):
            (part @ on_device[0].T).topk(20)
        synchronise(device)

    ways: dict[str, Callable[[], object]] = {"matrix product and top-k": by_torch}
    try:
        import faiss  # noqa: F401
    except ImportError:
        print("k-NN: no FAISS here, torch alone is timed")
    else:
        from core.distributed import init_distributed
        from evaluate.probes.knn.search import nearest, open_engine

        engine = open_engine(init_distributed(arguments.device))
        ways = {engine.name: lambda: nearest(engine, bank, queries, 20)} | ways
    ratio = (next(iter(ways)), "matrix product and top-k") if len(ways) > 1 else None
    what = f"k-NN search, bank {arguments.bank:,} × 384, {len(queries):,} queries"
    return [Row(what, "s", alternate(ways, arguments.rounds), ratio)]


if __name__ == "__main__":
    main()
