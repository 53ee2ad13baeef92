"""Steps on a GPU: images per second against the plain loop, their views, CUDA graphs, compilation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.alternate import Goal, Row, alternate, synchronise
from benchmarks.on_gpu.parts import Found, Job
from benchmarks.step import PLAIN, OurStep, five_views, in_layout, make_step, parity_rows, random_views
from core.backbones import BackboneConfig
from core.compute.kernels import kernels
from core.distributed import Processes
from pretrain.captured import EAGER, CapturedPasses
from pretrain.config import PretrainConfig
from pretrain.views.augment import augment
from pretrain.views.collate import Sample, View, collate
from pretrain.views.config import PhotometricConfig, ViewConfig
from pretrain.views.dataset import draw_photometric

VIT = BackboneConfig("vit_small_patch16_224")


def config_for(job: Job, backbone: str, precision: str) -> PretrainConfig:
    """The recipe of five views, with `resnet` (of the command line) or `vit`."""
    arguments = job.arguments
    resnet = BackboneConfig(
        arguments.backbone, {"zero_init_last": False} if arguments.backbone.startswith("resnet") else {}
    )
    chosen = resnet if backbone == "resnet" else vit_for(job)
    if job.device.type == "cpu":  # rehearsed only, and bf16 is slow there
        precision = "fp32"
    return five_views(chosen, tuple(arguments.sizes), precision, tuple(arguments.heads))


def vit_for(job: Job) -> BackboneConfig:
    """ViT-S/16, or on small views one of two blocks."""
    large = job.arguments.sizes[0]
    if large >= 224:
        return VIT
    tiny = {"img_size": large, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    return BackboneConfig("vit_tiny_patch16_224", tiny)


def parity(job: Job) -> Found:
    """Losses of ours and of the plain loop."""
    return Found(parity_rows(job.device, job.arguments.parity_steps))


def speed(job: Job, backbone: str, precision: str) -> Found:
    """Ours and the plain loop in turn, in one process, with torch's kernels for the plain loop."""
    config = config_for(job, backbone, precision)
    ours = with_kernels(config, job, make_step("ours", config, job.device, job.arguments.batch))
    ways = {"ours": ours, PLAIN: make_step(PLAIN, config, job.device, job.arguments.batch)}
    if precision == "fp32":
        tuned = dataclasses.replace(config, compute=dataclasses.replace(config.compute, tune_convolutions=True))
        all_tf32 = dataclasses.replace(config, compute=dataclasses.replace(config.compute, tf32="all"))
        other = ("ours, convolutions tuned", tuned) if backbone == "resnet" else ("ours, tf32: all", all_tf32)
        step = make_step("ours", other[1], job.device, job.arguments.batch)
        ways[other[0]] = with_kernels(other[1], job, step)
    rates = images_per_second(job, ways)
    what = f"BYOL step, five views, {config.backbone.name}, batch {job.arguments.batch}, {precision}"
    return Found([Row(what, "images/s", rates, ("ours", PLAIN), Goal("≥", 1.5))])


def with_kernels(config: PretrainConfig, job: Job, step: Callable[[], object]) -> Callable[[], object]:
    """The step with the kernels that its config asks for, as in the trainer."""

    def run() -> None:
        with kernels(job.device, config.compute.tf32, config.compute.tune_convolutions):
            step()

    return run


def images_per_second(
    job: Job, ways: Mapping[str, Callable[[], object]], batch: int | None = None
) -> dict[str, list[float]]:
    """Way -> images per second of each round, for steps of `batch` images (default: of the command line)."""
    steps, batch = job.arguments.steps, batch or job.arguments.batch

    def run(step: Callable[[], object]) -> None:
        for _ in range(steps):
            step()
        synchronise(job.device)

    taken = alternate({way: partial(run, step) for way, step in ways.items()}, job.arguments.rounds)
    return {way: [steps * batch / seconds for seconds in values] for way, values in taken.items()}


def augmentation(job: Job) -> Found:
    """Steps in bf16 with the device stage of their five views, over steps on finished views.

    Within a run nothing waits for the device, so the host prepares the next views while the device computes. `five
    views alone` waits for the device and is mostly the host's time for launching kernels.
    """
    config = config_for(job, "resnet", "bf16")
    step = with_kernels(config, job, make_step("ours", config, job.device, job.arguments.batch))
    views = uint8_views(config, job.arguments.batch, job.device)
    mean, std = config.backbone.mean, config.backbone.std

    def five() -> None:
        for view_config, view in views:
            augment(view.images, view.parameters, view_config, mean, std)

    def run(*works: Callable[[], object]) -> None:
        for _ in range(job.arguments.steps):
            for work in works:
                work()
        synchronise(job.device)

    ways = {
        "steps with five views": partial(run, five, step),
        "steps": partial(run, step),
        "five views alone": partial(run, five),
    }
    if job.device.type == "cuda":
        side, main = torch.cuda.Stream(), torch.cuda.current_stream()

        def beside() -> None:
            """The next step's views while this step computes."""
            with torch.cuda.stream(side):
                five()
            step()
            main.wait_stream(side)

        ways["steps beside the next five views, on two streams"] = partial(run, beside)
    values = alternate(ways, job.arguments.rounds, scale=1000 / job.arguments.steps)
    what = f"a step in bf16 with colours, blur and normalisation of its five views, batch {job.arguments.batch}"
    return Found([Row(what, "ms", values, ("steps with five views", "steps"), Goal("≤", 1.05))])


def kernels_of_views(job: Job) -> Found:
    """The device's own time for the colours, blur and normalisation of five views."""
    config = config_for(job, "resnet", "bf16")
    views = uint8_views(config, job.arguments.batch, job.device)
    mean, std = config.backbone.mean, config.backbone.std

    def five() -> None:
        for view_config, view in views:
            augment(view.images, view.parameters, view_config, mean, std)

    five()
    times = device_times(job, five)
    what = f"kernels of five views, batch {job.arguments.batch}, on the device alone"
    return Found([Row(what, "ms", {"sum over kernels": [times["all"]]})], {"ms by kernel": times})


def device_times(job: Job, work: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of the device for the 15 kernels that take most, and for all together, in one run of `work`."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        synchronise(job.device)
    times = {event.key: event.self_device_time_total / 1000 for event in profile.key_averages()}
    most = sorted(times, key=lambda key: -times[key])[:15]
    return {"all": round(sum(times.values()), 3)} | {key[:120]: round(times[key], 3) for key in most}


def uint8_views(config: PretrainConfig, batch: int, device: torch.device) -> list[tuple[ViewConfig, View]]:
    """Random crops of five views on the device, with parameters as a loader's workers draw them."""
    rng, recipe = np.random.default_rng(0), PhotometricConfig()
    views = []
    for view_config in config.views.values():
        plain = dataclasses.replace(view_config, transform=None)
        for _ in range(view_config.count):
            pixels = torch.from_numpy(rng.integers(0, 256, (view_config.size, view_config.size, 3), np.uint8))
            samples = [
                Sample({"v": [View(pixels.permute(2, 0, 1), draw_photometric(recipe, rng))]}, 0, [])
                for _ in range(batch)
            ]
            view = collate(samples).views["v"][0]
            views.append((plain, dataclasses.replace(view, images=view.images.to(device))))
    return views


def graphs(job: Job) -> Found:
    """A step whose passes are replayed from a CUDA graph, over the eager one; losses of both over the same views."""
    found = Found()
    for backbone, batch in (("vit", min(32, job.arguments.batch)), ("resnet", job.arguments.batch)):
        config = config_for(job, backbone, "bf16")
        eager, captured = (GraphStep(config, job, batch, capture) for capture in (False, True))
        curves = [[float(step(number)) for number in range(EAGER + 5)] for step in (eager, captured)]
        apart = max(abs(a - b) for a, b in zip(*curves, strict=True))
        ways = {"passes from a CUDA graph": partial(captured, 0), "eager": partial(eager, 0)}
        rates = images_per_second(job, {way: with_kernels(config, job, step) for way, step in ways.items()}, batch)
        name = f"{config.backbone.name}, batch {batch}"
        row = Row(f"BYOL step, five views, {name}, bf16", "images/s", rates, ("passes from a CUDA graph", "eager"))
        found.rows.append(dataclasses.replace(row, note=f"losses of {EAGER + 5} steps differ by at most {apart:.2g}"))
        found.facts[name] = {"losses, eager": curves[0], "losses, captured": curves[1]}
    return found


class GraphStep:
    """A step on one of a few batches of views, whose passes run eagerly or from a graph."""

    def __init__(self, config: PretrainConfig, job: Job, batch: int, capture: bool) -> None:
        torch.manual_seed(0)
        self._step = OurStep(config, job.device)
        self._views = [in_layout(config, random_views(config, batch, job.device, seed)) for seed in range(2)]
        self._backward: Callable[..., Any] = self._step.method.backward
        if capture:
            self._backward = CapturedPasses(self._step.method, Processes(0, 1, job.device))

    def __call__(self, number: int) -> Tensor:
        """One update; gives the loss on the device."""
        method, optimiser = self._step.method, self._step.optimiser
        method.update_target(0.99)
        losses = self._backward(self._views[number % len(self._views)])
        total = torch.stack(list(losses.values())).sum()
        optimiser.step()
        optimiser.zero_grad()
        return total


def compiled(job: Job) -> Found:
    """A compiled ViT step in bf16 over the eager one; the compilation itself is not timed."""
    config = config_for(job, "vit", "bf16")
    asked = dataclasses.replace(config, compute=dataclasses.replace(config.compute, compile=True))
    ways = {
        way: with_kernels(of, job, make_step("ours", of, job.device, job.arguments.batch))
        for way, of in (("compiled", asked), ("eager", config))
    }
    rates = images_per_second(job, ways)
    what = f"BYOL step, five views, {config.backbone.name}, batch {job.arguments.batch}, bf16"
    return Found([Row(what, "images/s", rates, ("compiled", "eager"))])
