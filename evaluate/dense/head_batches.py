"""Batches of maps and their targets for heads that are trained together: from stored maps, or from new crops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module, functional

from core.compute.precision import autocast
from core.data.order import GlobalBatches
from core.features import frozen, normalised
from evaluate.dense.heads import Batch
from evaluate.dense.maps import Maps
from evaluate.dense.padding import enlarged, padded_maps
from evaluate.probes.base import Job

Resize = Callable[[Tensor, int, int], Tensor]
"""(values [B, C, h, w], height, width) -> [B, C, height, width]."""
Crops = Iterable[tuple[Tensor, Tensor, list[str]]]
"""uint8 [b, h, w, 3], targets [b, h, w], names of broken images."""


def plain_resize(values: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resampling of values that cover the whole image."""
    return functional.interpolate(values, (height, width), mode="bilinear", align_corners=False)


def padded_resize(model: Module) -> Resize:
    """Resampling of values that cover crops padded for `model`."""

    def resize(values: Tensor, height: int, width: int) -> Tensor:
        return enlarged(values, model, height, width)

    return resize


def cached_batches(job: Job, maps: Maps, targets: Tensor) -> Callable[[int], Iterator[Batch]]:
    """Batches of stored maps from a step on. `targets`: of the usable images, [M, s, s]."""

    def from_step(start: int) -> Iterator[Batch]:
        for batch in _order(job, len(maps), start):
            chosen = np.array([position for _, position in batch], np.int64)
            yield maps.read(chosen).to(job.context.device), targets[torch.from_numpy(chosen)].to(job.context.device)

    return from_step


def augmented_batches(
    job: Job, open_crops: Callable[[GlobalBatches], Crops], note_broken: Callable[[list[str]], object]
) -> Callable[[int], Iterator[Batch]]:
    """Batches of maps of new crops from a step on."""
    backbone, device = job.backbone, job.context.device

    def from_step(start: int) -> Iterator[Batch]:
        for pixels, targets, broken in open_crops(_order(job, len(job.data["train"]), start)):
            note_broken(broken)
            with frozen(backbone.model), autocast(device, job.config.features.precision):
                crops = normalised(pixels.to(device, non_blocking=True), backbone.config)
                maps = padded_maps(job.inputs, backbone.model, crops).float()
            yield maps.clone(), targets.to(device, non_blocking=True)

    return from_step


def _order(job: Job, images: int, start: int) -> GlobalBatches:
    heads, processes = job.config.heads, job.context.processes
    passes = -(-heads.iterations // max(1, images // heads.batch))
    return GlobalBatches(images, heads.batch, passes, job.context.seed, processes.rank, processes.world_size, start)
