"""The order in which images are seen: a pure function of seed and epoch, cut into global batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Literal

import numpy as np

from core.errors import UserError

LastBatch = Literal["drop", "keep"]
"""Treatment of the images that fill no whole batch at the end of an epoch."""

SHARDS_MIXED = 16
"""Images of this many shards are shuffled together, as a shuffle buffer of that size would."""


def epoch_order(length: int, seed: int, epoch: int, blocks: np.ndarray | None = None) -> np.ndarray:
    """A permutation of 0 … length − 1.

    With `blocks` (first position of each shard) shards are shuffled, then images within groups of
    `SHARDS_MIXED` shards, which keeps the reading of tar files near-sequential.
    """
    rng = np.random.default_rng((seed, epoch))
    if blocks is None or len(blocks) <= SHARDS_MIXED:
        return rng.permutation(length)
    ends = np.append(blocks[1:], length)
    shards = rng.permutation(len(blocks))
    groups = [shards[start : start + SHARDS_MIXED] for start in range(0, len(shards), SHARDS_MIXED)]
    return np.concatenate(
        [
            rng.permutation(np.concatenate([np.arange(blocks[shard], ends[shard]) for shard in group]))
            for group in groups
        ]
    )


def check_batch(batch: int, images: int, what: str, world: int) -> None:
    """`UserError` where a global batch can't be cut out of `images` (called `what`) or divided among the processes."""
    if batch % world:
        raise UserError(f"batch {batch} can't be divided among {world} processes; change batch")
    if batch > images:
        raise UserError(f"batch {batch} is larger than the {images} images of {what}; lower batch")


def fitting_batch(batch: int, images: int, world: int) -> int:
    """`batch`, or the largest multiple of `world` that so many images fill."""
    return batch if batch <= images else images - images % world or batch


def batches_per_epoch(length: int, batch: int, last: LastBatch = "drop", world: int = 1) -> int:
    """Global batches of an epoch; a kept last batch has a multiple of `world` images, and counts if it has any."""
    return length // batch + (last == "keep" and length % batch >= world)


class GlobalBatches:
    """Batches of (epoch, position) for one rank, from `start_step` to the end of the last epoch.

    Rank r of W takes the r-th of W equal parts of each global batch, so W processes together see what one
    process sees, in the same order. The last incomplete batch of an epoch is dropped, or kept without the fewer than W
    images that would make parts unequal. A DataLoader takes this as its `batch_sampler`; workers run on across the
    ends of epochs.
    """

    def __init__(
        self,
        length: int,
        batch: int,
        epochs: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
        blocks: np.ndarray | None = None,
        last: LastBatch = "drop",
        ahead: Callable[[np.ndarray], None] | None = None,
    ) -> None:
        """`blocks`: as of `epoch_order`. With them, `ahead` is called before each step with the positions to come."""
        check_batch(batch, length, "the data set", world)
        self.steps_per_epoch = batches_per_epoch(length, batch, last, world)
        self.total_steps = self.steps_per_epoch * epochs
        self._length, self._batch, self._seed = length, batch, seed
        self._rank, self._world = rank, world
        self._start_step, self._blocks, self._ahead = start_step, blocks, ahead
        self._reach = 0 if blocks is None or ahead is None else 2 * SHARDS_MIXED * -(-length // len(blocks))

    def __len__(self) -> int:
        return self.total_steps - self._start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order_of = lru_cache(2)(lambda epoch: epoch_order(self._length, self._seed, epoch, self._blocks))
        for step in range(self._start_step, self.total_steps):
            epoch = step // self.steps_per_epoch
            order = order_of(epoch)
            first = step % self.steps_per_epoch * self._batch
            if self._ahead is not None and self._reach:
                coming = order[first : first + self._reach]
                if len(coming) < self._reach and (epoch + 1) * self.steps_per_epoch < self.total_steps:
                    coming = np.concatenate([coming, order_of(epoch + 1)[: self._reach - len(coming)]])
                self._ahead(coming)
            share = min(self._batch, self._length - first) // self._world
            first += self._rank * share
            yield [(epoch, int(position)) for position in order[first : first + share]]
