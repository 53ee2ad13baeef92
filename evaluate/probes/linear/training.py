"""Training a grid of heads on a frozen backbone: batches from cached features or augmented views, one loop for both."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from core.backbones import Backbone
from core.compute.precision import autocast
from core.data.base import ImageSet, read_ahead
from core.data.broken import BrokenImages
from core.data.order import GlobalBatches, batches_per_epoch, check_batch
from core.distributed import Processes
from core.features import frozen, normalised
from core.schedules import learning_rate_factor
from evaluate.common.context import RunContext
from evaluate.common.resumable import ProbeState
from evaluate.probes.accuracy import Accuracies, TopKAccuracy, scores_of
from evaluate.probes.features.cache import CachedFeatures
from evaluate.probes.features.head_inputs import HeadInputs
from evaluate.probes.features.standardise import Standardiser
from evaluate.probes.linear.head_grid import HeadGrid
from evaluate.probes.linear.protocol import LinearConfig
from evaluate.probes.training_views import view_batches

_LOGITS = 2**24
"""Logits held at a time while validating."""

Batches = Iterator[tuple[Tensor, Tensor]]
"""This rank's part of each global batch: features [b, F] and labels [b], on the device."""


@dataclass
class History:
    """Scores of all heads after each epoch."""

    epochs: list[Accuracies] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Broken training images that were replaced."""


def steps_of(config: LinearConfig, images: int, world: int) -> tuple[int, int]:
    """Steps of an epoch and passes over `images` that all epochs need at most; `world`: number of processes."""
    check_batch(config.batch, images, "training", 1)
    per_pass = batches_per_epoch(images, config.batch, config.last_batch, world)
    per_epoch = config.epoch_steps or per_pass
    return per_epoch, -(-per_epoch * config.epochs // per_pass)


def cached_batches(features: CachedFeatures, config: LinearConfig, context: RunContext, start: int) -> Batches:
    """Batches of stored features from global step `start` on."""
    processes, device = context.processes, context.device
    _, passes = steps_of(config, len(features.rows), processes.world_size)
    values, labels = torch.from_numpy(features.values), torch.from_numpy(features.labels)
    rows = torch.from_numpy(features.rows)
    order = GlobalBatches(
        len(rows), config.batch, passes, context.seed, processes.rank, processes.world_size, start,
        last=config.last_batch,
    )  # fmt: skip
    for batch in order:
        chosen = torch.tensor([position for _, position in batch])
        yield values.index_select(0, rows[chosen]).to(device).float(), labels[chosen].to(device)


def augmented_batches(
    backbone: Backbone,
    taps: HeadInputs,
    images: ImageSet,
    config: LinearConfig,
    context: RunContext,
    start: int,
    note_broken: Callable[[list[str]], object],
) -> Batches:
    """Features of new views of the images from global step `start` on."""
    processes, device = context.processes, context.device
    _, passes = steps_of(config, len(images), processes.world_size)
    blocks = getattr(images, "blocks", None)
    order = GlobalBatches(
        len(images), config.batch, passes, context.seed, processes.rank, processes.world_size, start, blocks,
        config.last_batch, partial(read_ahead, images),
    )  # fmt: skip
    views = view_batches(images, config.augment, config.features.transform.crop, order, context)
    for pixels, labels, broken in views:
        note_broken(broken)
        parts = []
        with frozen(backbone.model), autocast(device, config.features.precision):
            for part in pixels.split(config.features.batch):
                crops = normalised(part.to(device, non_blocking=True), backbone.config)
                parts.append(taps(backbone.model, crops).float())
        yield torch.cat(parts), labels.to(device)


def validate(grid: HeadGrid, standardiser: Standardiser, features: CachedFeatures, processes: Processes) -> Accuracies:
    """Scores of all heads, each rank counting its share."""
    hits = TopKAccuracy(grid.heads, grid.classes, processes.device)
    mine = torch.from_numpy(features.rows).tensor_split(processes.world_size)[processes.rank]
    labels = torch.from_numpy(features.labels).tensor_split(processes.world_size)[processes.rank]
    values = torch.from_numpy(features.values)
    size = max(1, _LOGITS // (grid.classes * grid.per_input))
    for rows, truth in zip(mine.split(size), labels.split(size), strict=True):
        batch = standardiser.evaluate(values.index_select(0, rows).to(processes.device).float())
        truth = truth.to(processes.device)
        for number in range(len(grid.inputs)):
            hits.add(grid.logits(batch, number), truth, number * grid.per_input, images=number == 0)
    return hits.scores()


def train_grid(
    grid: HeadGrid,
    standardiser: Standardiser,
    config: LinearConfig,
    per_epoch: int,
    open_batches: Callable[[int], Batches],
    val: CachedFeatures,
    context: RunContext,
    unfinished: ProbeState,
    broken: BrokenImages,
) -> History:
    """Trains to the last epoch, resuming from the state that `unfinished` holds; validates after each epoch.

    `open_batches`: (global step) -> batches from there on. `broken`: the account into which they note broken images.
    """
    processes, history = context.processes, History()
    if state := unfinished.load():
        with unfinished.restoring():
            _restore(state, grid, standardiser, history, broken, config.epochs)
        if processes.is_main:
            print(f"resuming after epoch {len(history.epochs)} of {config.epochs}")
    done, total = len(history.epochs) * per_epoch, config.epochs * per_epoch
    bar = tqdm(
        total=total, initial=done, desc=f"{grid.heads} head{'s' if grid.heads > 1 else ''}", unit="step",
        disable=not processes.is_main, mininterval=0.2 if sys.stderr.isatty() else 10.0, leave=False,
    )  # fmt: skip
    with bar:
        batches = open_batches(done) if done < total else iter(())
        while done < total:
            features, labels = next(batches)
            factor = learning_rate_factor(config.schedule, done, per_epoch, config.epochs)
            total_images = len(labels) * processes.world_size
            grid.step(standardiser.train(features, total_images), labels, factor, total_images)
            done += 1
            bar.update()
            if done % per_epoch == 0:
                _agree_on_broken(broken)
                scores = validate(grid, standardiser, val, processes)
                history.epochs.append(scores)
                bar.set_postfix_str(f"best head {max(scores.top1):.2f} %", refresh=False)
                if done < total:
                    unfinished.save(_state(grid, standardiser, history, broken))
    history.broken = list(broken.names)
    return history


def _agree_on_broken(broken: BrokenImages) -> None:
    """All ranks share what each has noted, so that they stop together where it is too much."""
    broken.add_of_all_ranks(list(broken.names))


def _state(grid: HeadGrid, standardiser: Standardiser, history: History, broken: BrokenImages) -> dict[str, Any]:
    rows = [[list(scores.top1), list(scores.top5), list(scores.mean_per_class)] for scores in history.epochs]
    return {"grid": grid.state(), "standardiser": standardiser.state(), "history": rows, "broken": broken.names}


def _restore(
    state: dict[str, Any],
    grid: HeadGrid,
    standardiser: Standardiser,
    history: History,
    broken: BrokenImages,
    epochs: int,
) -> None:
    grid.restore(state["grid"])
    standardiser.restore(state["standardiser"])
    history.epochs = [scores_of(row, grid.heads) for row in state["history"]]
    if not 1 <= len(history.epochs) <= epochs:
        raise ValueError(f"scores of {len(history.epochs)} epochs")
    broken.add(map(str, state["broken"]))
