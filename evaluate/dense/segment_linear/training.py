"""Training of linear segmentation: labels at the side of the loss, and the cross-entropy of all heads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from core.distributed import sum_over_ranks
from evaluate.dense.data import IGNORED, read_semantics
from evaluate.dense.head_batches import Resize, plain_resize
from evaluate.dense.maps import Maps
from evaluate.dense.segment_linear.protocol import SegmentLinearConfig
from evaluate.probes.base import Job


def train_labels(job: Job, maps: Maps) -> Tensor:
    """Class maps of the usable training images at the side of the loss, uint8 [M, s, s]."""
    config: SegmentLinearConfig = job.config
    side = config.train_labels or config.features.size
    return torch.from_numpy(read_semantics(job.data["train"], maps.positions, side))


_LOGITS = 2**27
"""Logits of all heads at the labels' size that are kept for the backward pass; more are computed again, by head."""


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
