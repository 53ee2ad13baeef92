"""Step: images per second of BYOL with five views against a plain loop, and that both compute the same.

`python benchmarks/step.py`
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from torch import Tensor

from benchmarks.alternate import Goal, Row, benchmark_parser, finish, measure_in_turn, synchronise
from benchmarks.plain_step import PlainStep
from core.backbones import BackboneConfig
from core.compute.malloc import disable_trimming
from core.schedules import momentum
from pretrain.compute import ComputeConfig
from pretrain.config import PretrainConfig
from pretrain.heads import HeadConfig
from pretrain.method import Method
from pretrain.optimisers import build_optimiser, set_learning_rate
from pretrain.views.config import ViewConfig

PARITY_STEPS = 50
LR = 0.1
PARITY_LR = 0.001
"""Low, so that rounding does not grow to the size of the loss itself."""
PLAIN = "plain loop"
PlainViews = Mapping[str, Sequence[Tensor]]


def main() -> None:
    """Parity first, then timings."""
    parser = benchmark_parser("Compare a BYOL step of five views with a plain loop.", rounds=3)
    parser.add_argument("--device", default="cpu")
    add_network_arguments(parser)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1, help="steps per round")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--parity-steps", type=int, default=PARITY_STEPS)
    parser.add_argument("--profile", action="store_true", help="also list the operators that take the time")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    rows = parity_rows(device, arguments.parity_steps)
    config = config_of(arguments, arguments.precision)
    rows.append(speed_row(config, device, arguments.batch, arguments.steps, arguments.rounds, goal=1.7))
    facts = {"profile": profiles(config, device, arguments.batch)} if arguments.profile else {}
    finish("step", arguments, rows, **facts)


def add_network_arguments(parser: argparse.ArgumentParser, sizes: tuple[int, int] = (224, 96)) -> None:
    """Adds the options of the networks and their views, which `config_of` reads."""
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--sizes", type=int, nargs=2, default=sizes, help="of global and local views, px")
    parser.add_argument("--heads", type=int, nargs=2, default=(4096, 256), help="widths of projector and predictors")


def config_of(arguments: argparse.Namespace, precision: str = "fp32") -> PretrainConfig:
    """The recipe of five views with the networks of the command line, for ResNets and ViTs."""
    resnet = arguments.backbone.startswith("resnet")
    backbone = BackboneConfig(arguments.backbone, {"zero_init_last": False} if resnet else {})
    return five_views(backbone, tuple(arguments.sizes), precision, tuple(arguments.heads))


def five_views(
    backbone: BackboneConfig, sizes: tuple[int, int], precision: str = "fp32", heads: tuple[int, int] = (4096, 256)
) -> PretrainConfig:
    """The recipe of BYOL with two global, two local and one cutout view."""
    large, small = sizes
    return PretrainConfig(
        backbone=backbone,
        views={
            "global": ViewConfig(count=2, size=large),
            "local": ViewConfig(count=2, size=small),
            "cutout": ViewConfig(count=1, size=large, transform="cutout"),
        },
        projector=HeadConfig(heads),
        predictor=HeadConfig(heads),
        compute=ComputeConfig(precision=precision),  # type: ignore[arg-type]
    )


class OurStep:
    """A step as `pretrain.trainer` takes it, on views that are there already."""

    def __init__(self, config: PretrainConfig, device: torch.device) -> None:
        self.method = Method(config, device)
        self.optimiser = build_optimiser(self.method.online, config.optim, LR)

    def step(self, views: PlainViews, tau: float, lr: float) -> Tensor:
        """One update; gives the loss on the device."""
        set_learning_rate(self.optimiser, lr, 1.0)
        self.method.update_target(tau)
        losses = self.method.backward(views)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return torch.stack(list(losses.values())).sum()


def random_views(config: PretrainConfig, batch: int, device: torch.device, seed: int) -> dict[str, list[Tensor]]:
    """Normalised views [B, 3, S, S] in contiguous memory."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: [torch.randn(batch, 3, view.size, view.size, generator=generator).to(device) for _ in range(view.count)]
        for name, view in config.views.items()
    }


def in_layout(config: PretrainConfig, views: PlainViews) -> dict[str, list[Tensor]]:
    """The views as the trainer hands them on."""
    layout = torch.channels_last if config.compute.channels_last else torch.contiguous_format
    return {name: [view.contiguous(memory_format=layout) for view in of_type] for name, of_type in views.items()}


def parity_rows(device: torch.device, steps: int = PARITY_STEPS) -> list[Row]:
    """Both from the same weights over the same views: how far their losses come apart, in double and single precision.

    In single precision rounding grows from step to step; what that alone does is seen between two plain loops whose
    first views differ in the last bit.
    """
    few = max(1, steps // 5)
    double = loss_curves(torch.float64, device, few, nudged=False)
    single = loss_curves(torch.float32, device, steps)
    what = "largest difference of losses, small ResNet"

    def apart(curves: dict[str, list[float]], one: str, other: str) -> list[float]:
        return [max(abs(a - b) for a, b in zip(curves[one], curves[other], strict=True))]

    return [
        Row(
            f"{what}, {few} steps in fp64", "of about 4", {"ours − plain": apart(double, "ours", "plain")},
            goal=Goal("≤", 1e-9),
        ),
        Row(
            f"{what}, {steps} steps in fp32", "of about 4",
            {
                "ours − plain": apart(single, "ours", "plain"),
                "plain − plain with one bit changed": apart(single, "nudged", "plain"),
            },
            goal=Goal("≤", 1e-3),
        ),
    ]  # fmt: skip


def loss_curves(
    dtype: torch.dtype, device: torch.device, steps: int, nudged: bool = True, sizes: tuple[int, int] = (32, 16)
) -> dict[str, list[float]]:
    """Losses of ours, of the plain loop, and if `nudged` of one whose first pixel differs in its last bit."""
    small = {"channels": [8, 16, 32, 64], "layers": [1, 1, 1, 1], "zero_init_last": False}
    config = five_views(BackboneConfig("resnet18", small, stem="small"), sizes, heads=(64, 32))
    with default_dtype(dtype):
        torch.manual_seed(0)
        ours = OurStep(config, device)
        plain, other = PlainStep(ours.method, config), PlainStep(ours.method, config) if nudged else None
        curves: dict[str, list[float]] = {"ours": [], "plain": [], "nudged": []}
        for step in range(steps):
            views, tau = random_views(config, 8, device, step), momentum(config.target.momentum, step, steps)
            curves["plain"].append(plain.step(views, tau, PARITY_LR))
            curves["ours"].append(float(ours.step(in_layout(config, views), tau, PARITY_LR)))
            if step == 0:
                pixel = views["global"][0][0, 0, 0, 0]
                pixel.copy_(torch.nextafter(pixel, pixel + 1))
            if other is not None:
                curves["nudged"].append(other.step(views, tau, PARITY_LR))
    return curves


@contextmanager
def default_dtype(dtype: torch.dtype) -> Any:
    """Networks and views are made in `dtype`; TF32 is off meanwhile."""
    before, tf32 = torch.get_default_dtype(), torch.backends.cudnn.allow_tf32
    torch.set_default_dtype(dtype)
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.backends.cudnn.allow_tf32 = tf32


def speed_row(
    config: PretrainConfig,
    device: torch.device,
    batch: int,
    steps: int,
    rounds: int,
    goal: float,
    variants: Mapping[str, ComputeConfig] | None = None,
) -> Row:
    """Images per second of ours, of the plain loop, and of ours with other `compute` settings.

    Each way steps in a process of its own, whose memory is managed as that way has it; one steps while the others wait.
    """
    settings = {"ours": config.compute, PLAIN: config.compute} | dict(variants or {})
    configs = {way: dataclasses.replace(config, compute=compute) for way, compute in settings.items()}
    with ExitStack() as stack:
        ways = {
            way: stack.enter_context(Stepper(way, configs[way], device, batch, steps, torch.get_num_threads()))
            for way in configs
        }
        rates = measure_in_turn({way: stepper.images_per_second for way, stepper in ways.items()}, rounds)
    return Row(
        f"BYOL step, five views, {config.backbone.name}, batch {batch}, {config.compute.precision}",
        "images/s", rates, ("ours", PLAIN), Goal("≥", goal),
    )  # fmt: skip


class Stepper:
    """Process that takes steps on request."""

    def __init__(
        self, way: str, config: PretrainConfig, device: torch.device, batch: int, steps: int, threads: int
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.step"])
        self._mine, theirs = context.Pipe()
        self._images = steps * batch
        self._process = context.Process(target=_serve, args=(theirs, way, config, device, batch, steps, threads))

    def __enter__(self) -> Stepper:
        self._process.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.join()

    def images_per_second(self) -> float:
        """Takes the steps of a round; `EOFError` where the process has died."""
        self._mine.send("go")
        while not self._mine.poll(1):
            if not self._process.is_alive():
                raise EOFError(f"the process that takes the steps ended with code {self._process.exitcode}")
        return self._images / float(self._mine.recv())


def _serve(
    pipe: Connection, way: str, config: PretrainConfig, device: torch.device, batch: int, steps: int, threads: int
) -> None:
    torch.set_num_threads(threads)
    if way != PLAIN and device.type == "cpu":
        disable_trimming()  # as pretrain/run.py does
    step = make_step(way, config, device, batch)
    while pipe.recv():
        synchronise(device)
        started = time.perf_counter()
        for _ in range(steps):
            step()
        synchronise(device)
        pipe.send(time.perf_counter() - started)


def make_step(way: str, config: PretrainConfig, device: torch.device, batch: int) -> Callable[[], object]:
    """A step on views that stay the same."""
    torch.manual_seed(0)
    ours, views = OurStep(config, device), random_views(config, batch, device, 0)
    if way == PLAIN:
        plain = PlainStep(ours.method, config)
        del ours
        return lambda: plain.step(views, 0.99, LR)
    ready = in_layout(config, views)
    return lambda: ours.step(ready, 0.99, LR)


def profiles(config: PretrainConfig, device: torch.device, batch: int) -> dict[str, dict[str, float]]:
    """Share of the time of the ten operators that take most, for both ways."""
    found = {}
    for way in ("ours", PLAIN):
        run = make_step(way, config, device, batch)
        run()
        with torch.profiler.profile() as profile:
            run()
            synchronise(device)
        times = {
            event.key: event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
            for event in profile.key_averages()
        }
        total = sum(times.values())
        found[way] = {
            key: round(times[key] / total, 4) for key in sorted(times, key=lambda key: -times[key])[:10] if times[key]
        }
    return found


if __name__ == "__main__":
    main()
