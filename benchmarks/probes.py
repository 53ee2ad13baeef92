"""Cost of 52 linear heads compared with one, over cached features. `python benchmarks/probes.py`"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import PIL.Image
import torch
from torch import nn

from benchmarks.alternate import Goal, Row, alternate, benchmark_parser, finish
from core.distributed import Processes
from evaluate.common.context import RunContext
from evaluate.probes.features.cache import CachedFeatures
from evaluate.probes.linear.head_grid import HeadGrid, HeadOptimConfig
from evaluate.probes.linear.protocol import LinearConfig
from evaluate.probes.linear.training import cached_batches, steps_of

ROOT = Path(__file__).resolve().parent.parent
ALONE = Processes(0, 1, torch.device("cpu"))
CONTEXT = RunContext(ALONE, workers=0, seed=0)
HEADS = 52
SIDE = 11
"""Raw pixels of 11 × 11 × 3 are features of 363 numbers."""


def main() -> None:
    """Epochs of a training loop, then whole commands."""
    parser = benchmark_parser("Time one head, 52 heads as a grid, and 52 separate modules.", rounds=5)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=10, help="of a whole command")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    finish("probes", arguments, [*epoch_rows(arguments), command_row(arguments)])


def epoch_rows(arguments: argparse.Namespace) -> list[Row]:
    """An epoch of each kind, and the matrix products of 52 heads alone."""
    lrs, classes, batch = _lrs(HEADS), arguments.classes, arguments.batch
    grid, products = "52 heads, grid", "the two matrix products of 52 heads alone"
    with tempfile.TemporaryDirectory() as folder:
        features = _features(Path(folder), arguments.images, arguments.width, classes)
        values = alternate(
            {
                "one head, grid": partial(_grid_epoch, features, (0.01,), classes, batch),
                "one head, module and SGD": partial(_module_epoch, features, (0.01,), classes, batch),
                grid: partial(_grid_epoch, features, lrs, classes, batch),
                "52 heads, separate modules": partial(_module_epoch, features, lrs, classes, batch),
                products: _products(arguments),
            },
            arguments.rounds,
            scale=1000,
        )
    size = f"{arguments.images:,} × {arguments.width} features, {classes} classes, batch {batch}"
    return [
        Row(f"an epoch of 52 heads over one's, {size}", "ms", values, (grid, "one head, grid"), Goal("≤", 1.5)),
        Row("the products alone over one head's whole epoch: the floor of the line above", "ms", values,
            (products, "one head, grid")),
        Row("an epoch of 52 heads over one module's", "ms", values, (grid, "one head, module and SGD")),
        Row("52 separate modules over the grid", "ms", values, ("52 heads, separate modules", grid)),
    ]  # fmt: skip


def command_row(arguments: argparse.Namespace) -> Row:
    """`evaluate/linear.py` from start to end over features that it finds on disk, with 52 rates and with one."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_images(root, arguments.images, arguments.classes)
        settings = {
            "name": "probes_benchmark", "data": {"source": f"folder:{root / 'images'}"}, "views": "cached",
            "features": {"transform": {"resize": SIDE, "crop": SIDE}}, "standardise": "train",
            "batch": arguments.batch, "epochs": arguments.epochs,
        }  # fmt: skip
        values = alternate(
            {
                "52 heads": _command(root, "52", {**settings, "lrs": _lrs(HEADS)}, arguments.threads),
                "one head": _command(root, "1", {**settings, "lrs": [0.01]}, arguments.threads),
            },
            max(1, arguments.rounds // 2),
        )
    what = f"a whole linear.py command, {arguments.epochs} epochs, {arguments.images:,} × {3 * SIDE**2} features"
    return Row(what, "s", values, ("52 heads", "one head"), Goal("≤", 1.5))


def _command(root: Path, name: str, settings: dict[str, object], threads: int) -> Callable[[], object]:
    protocol = root / f"{name}.yaml"
    protocol.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    environment = {**os.environ, "SSL_TRANSFER_CACHE": str(root / "cache"), "OMP_NUM_THREADS": str(threads)}

    def run() -> None:
        out = root / f"result-{name}-{time.monotonic_ns()}"
        options = ["--ckpt", "pixels", "--config", str(protocol), "--device", "cpu", "--workers", "0"]
        subprocess.run(
            [sys.executable, "evaluate/linear.py", *options, "--out", str(out)],
            cwd=ROOT, env=environment, check=True, capture_output=True,
        )  # fmt: skip

    return run


def _write_images(root: Path, images: int, classes: int) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", images), ("val", max(classes, images // 20))):
        for label in range(classes):
            (root / "images" / split / f"{label}").mkdir(parents=True)
        for number in range(count):
            file = root / "images" / split / f"{number % classes}" / f"{number}.ppm"
            PIL.Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(file)


def _products(arguments: argparse.Namespace) -> Callable[[], object]:
    inputs = torch.randn(arguments.batch, arguments.width)
    weights = torch.randn(arguments.width, arguments.classes * HEADS)
    errors, update = torch.randn(arguments.batch, arguments.classes * HEADS), torch.empty_like(weights)
    logits = torch.empty_like(errors)

    def epoch() -> None:
        for _ in range(arguments.images // arguments.batch):
            torch.mm(inputs, weights, out=logits)
            torch.mm(inputs.T, errors, out=update)

    return epoch


def _lrs(count: int) -> tuple[float, ...]:
    return tuple(float(lr) for lr in np.logspace(-5, -1, count))


def _features(folder: Path, images: int, width: int, classes: int) -> CachedFeatures:
    rng = np.random.default_rng(0)
    np.save(folder / "values.npy", rng.standard_normal((images, width)).astype(np.float32))
    values = np.load(folder / "values.npy", mmap_mode="c")
    rows = np.arange(images)
    return CachedFeatures(values, rows, rng.integers(0, classes, images), rows, (), folder)


def _config(lrs: tuple[float, ...], batch: int) -> LinearConfig:
    return LinearConfig(name="benchmark", views="cached", lrs=lrs, batch=batch, epochs=1)


def _grid_epoch(features: CachedFeatures, lrs: tuple[float, ...], classes: int, batch: int) -> None:
    config = _config(lrs, batch)
    grid = HeadGrid(((0, features.values.shape[1]),), lrs, classes, HeadOptimConfig(), 0, ALONE.device)
    steps, _ = steps_of(config, len(features.rows), 1)
    for _, (vectors, labels) in zip(range(steps), cached_batches(features, config, CONTEXT, 0), strict=False):
        grid.step(vectors, labels, 1.0, batch)


def _module_epoch(features: CachedFeatures, lrs: tuple[float, ...], classes: int, batch: int) -> None:
    """The same heads as modules with a parameter group each, their losses summed."""
    heads = nn.ModuleList(nn.Linear(features.values.shape[1], classes) for _ in lrs)
    groups = [{"params": list(head.parameters()), "lr": lr} for head, lr in zip(heads, lrs, strict=True)]
    optimiser = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    for vectors, labels in cached_batches(features, _config(lrs, batch), CONTEXT, 0):
        loss = torch.stack([nn.functional.cross_entropy(head(vectors), labels) for head in heads]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


if __name__ == "__main__":
    main()
