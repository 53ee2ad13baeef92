"""Scaling: what a second process costs a step, and how much of the exchange the last backward pass hides.

`python benchmarks/scaling.py`
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import PIL.Image
import torch
import torch.distributed as dist

from benchmarks.alternate import Goal, Row, benchmark_parser, finish, measure_in_turn
from benchmarks.step import LR, OurStep, add_network_arguments, config_of, five_views, in_layout, random_views
from core.backbones import BackboneConfig
from core.compute.exchange import BUCKET_BYTES, GradientExchange
from core.data.account import Account
from core.distributed import average_gradients, init_distributed
from core.schedules import ScheduleConfig
from pretrain.method import Pass

ROOT = Path(__file__).resolve().parent.parent
COUNTED_STEPS = 4


def main() -> None:
    """Equal numbers of images per process, alone and next to a second process."""
    parser = benchmark_parser("Compare a step of one process with one of two (gloo).", rounds=3)
    add_network_arguments(parser, sizes=(128, 64))
    parser.add_argument("--batch", type=int, default=8, help="images per process")
    parser.add_argument("--steps", type=int, default=2, help="steps per round")
    parser.add_argument("--bucket", type=float, default=BUCKET_BYTES / 2**20, help="MiB of gradients per all-reduce")
    parser.add_argument("--as-rank", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.as_rank:
        _as_rank(arguments)
        return
    found: dict[int, list[dict[str, Any]]] = {1: [], 2: []}

    def run(processes: int) -> float:
        found[processes].append(started_with(processes, arguments))
        return found[processes][-1]["seconds"]

    taken = measure_in_turn(
        {"two processes": lambda: run(2), "one process": lambda: run(1)}, arguments.rounds, warm_up=0
    )
    two = found[2]
    rows = [
        Row(
            f"a step of {arguments.batch} images per process, {arguments.backbone}", "s", taken,
            ("two processes", "one process"), note="1 is perfect scaling; one thread per process",
        ),
        Row(
            "wait for the exchange after the last backward pass of two processes", "s",
            {way: [one["waits"][way] for one in two] for way in two[0]["waits"]}, ("buckets", "one all-reduce"),
        ),
        Row(
            "of the gradients, those that had arrived when the last backward pass ended", "share",
            {"buckets": [one["arrived"] for one in two]},
        ),
        Row(
            "gradient all-reduces per training step of two processes", "calls",
            {"counted in the trainer": [one["calls"] / COUNTED_STEPS for one in two]}, goal=Goal("=", 1),
        ),
    ]  # fmt: skip
    finish("scaling", arguments, rows, gradient_megabytes=two[0]["megabytes"], timeline=two[-1]["timeline"])


def started_with(processes: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measurement by rank 0 of that many processes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        own = [f"--as-rank={out}", f"--backbone={arguments.backbone}", f"--batch={arguments.batch}"]
        own += [f"--bucket={arguments.bucket}"]
        own += [f"--steps={arguments.steps}", f"--threads={arguments.threads}", "--sizes", *map(str, arguments.sizes)]
        own += ["--heads", *map(str, arguments.heads)]
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        subprocess.run([*launch, __file__, *own], cwd=ROOT, env=environment, check=True, capture_output=True)
        return json.loads(out.read_text(encoding="utf-8"))


def _as_rank(arguments: argparse.Namespace) -> None:
    processes = init_distributed("cpu")
    calls = _calls_in_training(arguments.as_rank.parent / "run", processes) if processes.world_size > 1 else 0
    config = config_of(arguments)
    torch.manual_seed(0)
    ours = OurStep(config, processes.device)
    parameters = list(ours.method.online.parameters())
    views = in_layout(config, random_views(config, arguments.batch, processes.device, processes.rank))
    exchange = GradientExchange(parameters, int(arguments.bucket * 2**20))
    waits = {"one all-reduce": 0.0, "buckets": 0.0}
    total, arrived, watch = 0.0, 0.0, Timeline()
    for step in range(-1, arguments.steps):
        for way in waits:
            started = time.perf_counter()
            ours.method.update_target(0.99)
            with watch:
                ours.method.backward(views, before=watch.then(exchange) if way == "buckets" else None)
                watch.backward_ended()
                if way == "buckets":
                    exchange.finish()
                else:
                    average_gradients(parameters)
                waited = watch.now() - watch.end
            ours.optimiser.step()
            ours.optimiser.zero_grad()
            if step >= 0:
                waits[way] += waited / arguments.steps
            if step >= 0 and way == "buckets":
                total, arrived = total + time.perf_counter() - started, arrived + watch.arrived()
    if processes.is_main:
        found = {
            "seconds": total / arguments.steps, "waits": waits, "arrived": arrived / arguments.steps, "calls": calls,
            "lr": LR, "megabytes": sum(parameter.numel() for parameter in parameters) * 4 / 1e6,
            "timeline": {"last_backward_ends_ms": round(1e3 * watch.end, 1), "buckets": watch.buckets},
        }  # fmt: skip
        arguments.as_rank.write_text(json.dumps(found), encoding="utf-8")


class Timeline:
    """Context that notes when all-reduces of gradients leave and arrive, from the start of the last backward pass."""

    def __enter__(self) -> None:
        self.buckets: list[dict[str, float]] = []
        self.start = time.perf_counter()
        self.end = 0.0
        self._plain = dist.all_reduce
        dist.all_reduce = self._noted

    def __exit__(self, *_: object) -> None:
        dist.all_reduce = self._plain

    def now(self) -> float:
        return time.perf_counter() - self.start

    def then(self, exchange: GradientExchange) -> Callable[[Pass], None]:
        """What announces the last backward pass, at which the time begins."""

        def announce(backward: Pass) -> None:
            if backward.left == 0:
                self.start = time.perf_counter()
                exchange.expect(backward.loss)

        return announce

    def backward_ended(self) -> None:
        self.end = self.now()

    def arrived(self) -> float:
        """Share of the bytes that had arrived when the last backward pass ended."""
        there = [bucket["megabytes"] for bucket in self.buckets if bucket.get("arrived_ms", 9e9) <= 1e3 * self.end]
        return sum(there) / max(sum(bucket["megabytes"] for bucket in self.buckets), 1e-9)

    def _noted(self, tensor: torch.Tensor, *rest: Any, **named: Any) -> Any:
        bucket = {"megabytes": round(tensor.numel() * 4 / 1e6, 1), "sent_ms": round(1e3 * self.now(), 1)}
        work = self._plain(tensor, *rest, **named)
        if work is not None:
            self.buckets.append(bucket)
            note = lambda _: bucket.update(arrived_ms=round(1e3 * self.now(), 1))  # noqa: E731
            work.get_future().add_done_callback(note)
        return work


def _calls_in_training(run: Path, processes: Any) -> int:
    """All-reduces of gradients while `pretrain.trainer` takes a few steps."""
    import dataclasses

    from pretrain.trainer import train

    tiny = five_views(BackboneConfig("resnet18", {"channels": [8, 8, 8, 8]}), (32, 24), heads=(16, 8))
    config = dataclasses.replace(tiny, batch=8, epochs=1, schedule=ScheduleConfig(warmup_epochs=0))
    calls: list[int] = []
    plain = dist.all_reduce

    def counted(tensor: torch.Tensor, *rest: Any, **named: Any) -> Any:
        calls.append(tensor.numel())
        return plain(tensor, *rest, **named)

    dist.all_reduce = counted
    try:
        train(config, run, Squares(8 * COUNTED_STEPS), processes, workers=0)
    finally:
        dist.all_reduce = plain
    return sum(numel > 1000 for numel in calls)  # the log adds up a handful of losses


class Squares:
    """Images of one colour each."""

    name = "squares"
    classes: tuple[str, ...] = ()

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def image(self, index: int) -> PIL.Image.Image:
        return PIL.Image.fromarray(np.full((40, 40, 3), index, np.uint8))

    def label(self, index: int) -> int:
        return -1

    def describe(self, index: int) -> str:
        return f"square {index}"

    def digest(self) -> str:
        return "squares"

    def account(self) -> Account:
        return Account()

    def conversions(self, index: int) -> tuple[str, ...]:
        return ()


if __name__ == "__main__":
    main()
