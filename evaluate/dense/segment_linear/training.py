"""Training of linear segmentation: batches from cached maps or new crops, and the cross-entropy of all heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from core.compute.precision import autocast
from core.data.order import GlobalBatches
from core.distributed import sum_over_ranks
from core.features import frozen, normalised
from evaluate.common.context import RunContext
from evaluate.dense.data import IGNORED, read_semantics
from evaluate.dense.heads import Batch
from evaluate.dense.maps import Maps, MapTaps
from evaluate.dense.padding import padded_maps
from evaluate.dense.segment_linear.crops import crop_batches
from evaluate.dense.segment_linear.protocol import SegmentLinearConfig
from evaluate.probes.base import Job


def passes(images: int, batch: int, iterations: int) -> int:
    """Epochs that all steps need at most."""
    return -(-iterations // max(1, images // batch))


def cached_batches(job: Job, maps: Maps, labels: Tensor) -> Callable[[int], Iterator[Batch]]:
    """Batches of stored maps from a step on. `labels`: class maps of the usable images, uint8 [M, s, s]."""
    config: SegmentLinearConfig = job.config
    context = job.context

    def from_step(start: int) -> Iterator[Batch]:
        for batch in _order(len(maps), config, context, start):
            chosen = np.array([position for _, position in batch], np.int64)
            yield maps.read(chosen).to(context.device), labels[torch.from_numpy(chosen)].to(context.device)

    return from_step


def augmented_batches(job: Job, note_broken: Callable[[list[str]], object]) -> Callable[[int], Iterator[Batch]]:
    """Batches of maps of new crops from a step on."""
    config: SegmentLinearConfig = job.config
    context, backbone = job.context, job.backbone
    taps: MapTaps = job.inputs
    images = job.data["train"]

    def from_step(start: int) -> Iterator[Batch]:
        order = _order(len(images), config, context, start)
        for pixels, classes, broken in crop_batches(images, config.crop, config.features.size, order, context):
            note_broken(broken)
            with frozen(backbone.model), autocast(context.device, config.features.precision):
                crops = normalised(pixels.to(context.device, non_blocking=True), backbone.config)
                maps = padded_maps(taps, backbone.model, crops).float()
            yield maps.clone(), classes.to(context.device, non_blocking=True)

    return from_step


def train_labels(job: Job, maps: Maps) -> Tensor:
    """Class maps of the usable training images at the side of the loss, uint8 [M, s, s]."""
    config: SegmentLinearConfig = job.config
    side = config.train_labels or config.features.size
    return torch.from_numpy(read_semantics(job.data["train"], maps.positions, side))


_LOGITS = 2**27
"""Logits of all heads at the labels' size that are kept for the backward pass; more are computed again, by head."""
Resize = Callable[[Tensor, int, int], Tensor]
"""(values [B, C, h, w], height, width) -> [B, C, height, width]."""


def plain_resize(values: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resampling of values that cover the whole image."""
    return functional.interpolate(values, (height, width), mode="bilinear", align_corners=False)


def cross_entropies(world: int, resize: Resize = plain_resize) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Loss of each head: the mean over all labelled pixels of the global batch, so that the mean over ranks is it."""

    def losses(outputs: Tensor, classes: Tensor, step: int) -> Tensor:
        height, width = classes.shape[-2:]
        labelled = sum_over_ranks((classes != IGNORED).sum().float()).clamp(min=1)

        def of_head(own: Tensor) -> Tensor:
            logits = resize(own, height, width)
            total = functional.cross_entropy(logits, classes.long(), ignore_index=IGNORED, reduction="sum")
            return total * (world / labelled)

        if outputs.shape[:3].numel() * height * width <= _LOGITS:
            return torch.stack([of_head(own) for own in outputs])
        return torch.stack([checkpoint(of_head, own, use_reentrant=False) for own in outputs])

    return losses


def _order(images: int, config: SegmentLinearConfig, context: RunContext, start: int) -> GlobalBatches:
    processes, heads = context.processes, config.heads
    count = passes(images, heads.batch, heads.iterations)
    return GlobalBatches(images, heads.batch, count, context.seed, processes.rank, processes.world_size, start)
