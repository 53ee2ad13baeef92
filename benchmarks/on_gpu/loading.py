"""Input of a GPU: loader processes that keep it busy, and JPEG decoding on the device."""

from __future__ import annotations

import io
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.alternate import Goal, Row, alternate, measure_in_turn, synchronise
from benchmarks.on_gpu.parts import Found, Job
from benchmarks.on_gpu.steps import config_for, with_kernels
from benchmarks.step import LR, OurStep
from core.data.readers.folder import Folder
from pretrain.config import PretrainConfig
from pretrain.views.collate import collate
from pretrain.views.dataset import Views
from pretrain.views.decode import DeviceDecoder, decode_jpegs
from pretrain.views.on_device import views_on_device

WIDTH, HEIGHT, QUALITY = 500, 375, 90
GOAL = 4
"""Loader processes that should keep a GPU busy."""


@lru_cache(maxsize=1)
def photographs(count: int) -> tuple[bytes, ...]:
    """JPEGs of 500×375 pixels, cut from scikit-learn's two photographs at random."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    found = []
    sources = [PIL.Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(count):
        source = sources[number % len(sources)]
        width = int(rng.integers(WIDTH // 2, source.width + 1))
        height = min(source.height, math.ceil(width * HEIGHT / WIDTH))
        left, top = int(rng.integers(source.width - width + 1)), int(rng.integers(source.height - height + 1))
        cut = source.resize((WIDTH, HEIGHT), box=(left, top, left + width, top + height))
        buffer = io.BytesIO()
        cut.save(buffer, "JPEG", quality=QUALITY)
        found.append(buffer.getvalue())
    return tuple(found)


@contextmanager
def folder_of(images: tuple[bytes, ...]) -> Iterator[Path]:
    """Context with a folder that holds the images."""
    with tempfile.TemporaryDirectory() as place:
        for number, data in enumerate(images):
            (Path(place) / f"{number:05d}.jpg").write_bytes(data)
        yield Path(place)


def loaders(job: Job) -> Found:
    """Images per second of a loader's processes, and how many of them the ResNet's step in bf16 needs."""
    config, images = config_for(job, "resnet", "bf16"), photographs(job.arguments.images)
    cores = len(os.sched_getaffinity(0))
    with folder_of(images) as folder:
        photos = Folder(folder, "photographs")
        views, left = (Views(photos, config.views, seed=0, decode=decode) for decode in ("workers", "device"))
        counts = sorted({1, min(GOAL, cores), min(2 * GOAL, cores)})
        rounds = min(2, job.arguments.rounds)
        ways = {f"{n} processes": partial(loader_rate, views, n, job) for n in counts}
        files = f"{min(GOAL, cores)} processes, decode=device"
        rates = measure_in_turn({**ways, files: partial(loader_rate, left, min(GOAL, cores), job)}, rounds, warm_up=0)
        each = rates[f"{min(GOAL, cores)} processes"]
        step = training_rate(config, views, 0, job)
        fed_by_loader, in_memory = f"views of {GOAL} loader processes", "views that are in memory"
        fed = {fed_by_loader: [training_rate(config, views, GOAL, job)], in_memory: [step]}
        decoder = DeviceDecoder(photos, config, job.device)
        decoded = training_rate(config, left, GOAL, job, decoder)
        fed[f"files of {GOAL} loader processes, decode=device"] = [decoded]
    rows = [
        Row("five views of JPEGs of 500×375 from loader processes", "images/s", rates),
        Row(
            f"loader processes that feed {config.backbone.name} in bf16 with its views ({step:.0f} images/s)",
            "processes", {"needed": [step * min(GOAL, cores) / rate for rate in each]}, goal=Goal("≤", GOAL),
        ),
        Row(
            f"the same with decode=device ({decoded:.0f} images/s)",
            "processes", {"needed": [decoded * min(GOAL, cores) / rate for rate in rates[files]]}, goal=Goal("≤", GOAL),
        ),
        Row(f"training of {config.backbone.name} in bf16", "images/s", fed, (fed_by_loader, in_memory)),
    ]  # fmt: skip
    return Found(rows, {"bytes of a JPEG": sum(map(len, images)) // len(images), "cores": cores})


def loader_rate(views: Views, workers: int, job: Job) -> float:
    """Images per second of a loader, from its first batch to its last."""
    stamps = [time.perf_counter() for _ in batches(views, workers, 4 * workers + 4, 64, job)]
    first = workers  # the processes' first batches come while they start
    return 64 * (len(stamps) - 1 - first) / (stamps[-1] - stamps[first])


def batches(views: Views, workers: int, count: int, size: int, job: Job) -> DataLoader[Any]:
    """A loader as the trainer opens it, of `count` batches."""
    size = min(size, job.arguments.batch)
    keys = [[(0, (number * size + place) % len(views)) for place in range(size)] for number in range(count)]
    return DataLoader(
        views, batch_sampler=keys, collate_fn=collate, num_workers=workers, pin_memory=job.device.type == "cuda",
        prefetch_factor=2 if workers else None,
    )  # fmt: skip


def training_rate(
    config: PretrainConfig, views: Views, workers: int, job: Job, decoder: DeviceDecoder | None = None
) -> float:
    """Images per second of whole steps; 0 workers: the same batch again and again, loaded before.

    `decoder`: completes the batches of views that are left to the device.
    """
    ours = OurStep(config, job.device)
    batch, warm_up = job.arguments.batch, 3 + 2 * workers  # until no batch is left that was loaded ahead
    count = warm_up + 6 * job.arguments.steps

    def one(loaded: Any) -> None:
        loaded = loaded if decoder is None else decoder(loaded)
        ready = views_on_device(loaded, config, job.device, ours.method.layout)
        ours.step(ready, 0.99, LR)

    source = batches(views, workers, count if workers else 1, batch, job)
    given = iter(source) if workers else iter([next(iter(source))] * count)
    started = 0.0
    for number, loaded in enumerate(given):
        if number == warm_up:
            synchronise(job.device)
            started = time.perf_counter()
        with_kernels(config, job, partial(one, loaded))()
    synchronise(job.device)
    return batch * (count - warm_up) / (time.perf_counter() - started)


def jpegs(job: Job) -> Found:
    """Decoding on the device (nvJPEG through torchvision) against Pillow on one core: speed, and how far apart."""
    images = photographs(job.arguments.images)[:128]
    encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in images]
    count = 64 if job.device.type == "cuda" else 1

    def on_device() -> list[Tensor]:
        found: list[Tensor] = []
        for start in range(0, len(encoded), count):
            found += decode_jpegs(encoded[start : start + count], job.device)
        synchronise(job.device)
        return found

    def by_pillow() -> list[np.ndarray]:
        return [np.array(PIL.Image.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB")) for data in images]

    name, other = "nvJPEG, batches of 64" if job.device.type == "cuda" else "torchvision", "Pillow, one core"
    seconds = alternate({name: on_device, other: by_pillow}, job.arguments.rounds)
    rates = {way: [len(images) / value for value in values] for way, values in seconds.items()}
    apart = np.stack(
        [
            np.abs(a.permute(1, 2, 0).cpu().numpy().astype(np.int16) - b)
            for a, b in zip(on_device(), by_pillow(), strict=True)
        ]
    )
    facts = {
        "mean difference, grey levels": float(apart.mean()),
        "largest difference": int(apart.max()),
        "share of values that differ": float((apart > 0).mean()),
        "share that differs by more than 2": float((apart > 2).mean()),
    }
    note = f"pixels differ by {facts['mean difference, grey levels']:.3g} grey levels on average, at most {apart.max()}"
    return Found([Row("decoding of JPEGs of 500×375", "images/s", rates, (name, other), note=note)], facts)
