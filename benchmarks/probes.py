"""What 52 linear heads cost beside one, over cached features. `python benchmarks/probes.py --json probes.json`"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from core.distributed import Processes
from evaluate.feature_cache import CachedFeatures
from evaluate.heads import HeadGrid, HeadOptimConfig
from evaluate.linear_protocol import LinearConfig
from evaluate.linear_training import cached_batches, steps_of

ALONE = Processes(0, 1, torch.device("cpu"))
HEADS = 52


def main() -> None:
    """Times whole epochs, one kind after the other in turn, and prints medians, ranges and ratios."""
    parser = argparse.ArgumentParser(description="Time one head, 52 heads as a grid, and 52 separate modules.")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures there")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lrs = tuple(float(lr) for lr in np.logspace(-5, -1, HEADS))
    with tempfile.TemporaryDirectory() as folder:
        features = _features(Path(folder), arguments.images, arguments.width, arguments.classes)
        kinds: dict[str, Callable[[], None]] = {
            "one head": lambda: _grid_epoch(features, (0.01,), arguments.classes, arguments.batch),
            "52 heads, grid": lambda: _grid_epoch(features, lrs, arguments.classes, arguments.batch),
            "52 heads, separate modules": lambda: _module_epoch(features, lrs, arguments.classes, arguments.batch),
        }
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        for repeat in tqdm(range(arguments.repeats + 1), unit="round", leave=False):
            for kind, epoch in kinds.items():
                started = time.perf_counter()
                epoch()
                if repeat:  # the first round warms up
                    seconds[kind].append(time.perf_counter() - started)
    ratios = {
        kind: [taken / one for taken, one in zip(times, seconds["one head"], strict=True)]
        for kind, times in seconds.items()
    }
    machine = f"{_cpu()}, {os.cpu_count()} cores, {arguments.threads} thread{'s' if arguments.threads > 1 else ''}"
    print(
        f"{machine}; torch {torch.__version__}; an epoch of {arguments.images:,} × {arguments.width} features, "
        f"{arguments.classes} classes, batch {arguments.batch}; {arguments.repeats} rounds: median (least … most)"
    )
    for kind, times in seconds.items():
        own = ratios[kind]
        print(
            f"{kind:28} {1000 * statistics.median(times):8.1f} ms ({1000 * min(times):.1f} … {1000 * max(times):.1f})"
            f"   {statistics.median(own):6.2f} × one head ({min(own):.2f} … {max(own):.2f})"
        )
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key != "json"}
        document = {"machine": machine, "torch": torch.__version__, **settings, "seconds": seconds, "ratios": ratios}
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


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
    steps, _ = steps_of(config, len(features.rows))
    for _, (vectors, labels) in zip(range(steps), cached_batches(features, config, 0, ALONE, 0), strict=False):
        grid.step(vectors, labels, 1.0, batch)


def _module_epoch(features: CachedFeatures, lrs: tuple[float, ...], classes: int, batch: int) -> None:
    """The same heads as 52 modules with a parameter group each, their losses summed."""
    heads = nn.ModuleList(nn.Linear(features.values.shape[1], classes) for _ in lrs)
    groups = [{"params": list(head.parameters()), "lr": lr} for head, lr in zip(heads, lrs, strict=True)]
    optimiser = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    for vectors, labels in cached_batches(features, _config(lrs, batch), 0, ALONE, 0):
        loss = torch.stack([nn.functional.cross_entropy(head(vectors), labels) for head in heads]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
