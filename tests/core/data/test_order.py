"""core/data/order.py: the order is a pure function, and ranks together see what one process sees."""

from __future__ import annotations

import numpy as np
import pytest

from core.data.order import GlobalBatches, batches_per_epoch, epoch_order
from core.errors import UserError


def test_every_epoch_is_another_permutation() -> None:
    first, second = epoch_order(100, 0, 0), epoch_order(100, 0, 1)
    assert sorted(first) == sorted(second) == list(range(100))
    assert (first != second).any()
    assert (epoch_order(100, 0, 0) == first).all()
    assert (epoch_order(100, 1, 0) != first).any()


def test_ranks_partition_each_global_batch_in_order() -> None:
    whole = list(GlobalBatches(50, 12, 3, seed=5))
    parts = [list(GlobalBatches(50, 12, 3, seed=5, rank=rank, world=3)) for rank in range(3)]
    assert len(whole) == 4 * 3  # 50 // 12 steps in each of 3 epochs
    for step, batch in enumerate(whole):
        assert batch == parts[0][step] + parts[1][step] + parts[2][step]
        assert {epoch for epoch, _ in batch} == {step // 4}


@pytest.mark.parametrize(("world", "kept"), [(1, 2), (2, 2), (3, 0)])
def test_a_kept_last_batch_has_what_the_ranks_can_share(world: int, kept: int) -> None:
    parts = [list(GlobalBatches(50, 12, 2, 5, rank, world, last="keep")) for rank in range(world)]
    per_epoch = 4 + (kept > 0)
    assert batches_per_epoch(50, 12, "keep", world) == per_epoch
    assert [len(part) for part in parts] == [2 * per_epoch] * world
    for epoch in range(2):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        seen = [position for step in steps for part in parts for _, position in part[step]]
        assert seen == epoch_order(50, 5, epoch)[: 48 + kept].tolist()
        assert {len(part[steps[-1]]) for part in parts} == {(kept or 12) // world}
    resumed = list(GlobalBatches(50, 12, 2, 5, 0, world, start_step=per_epoch, last="keep"))
    assert resumed == parts[0][per_epoch:]


def test_resuming_starts_where_it_stopped() -> None:
    whole = list(GlobalBatches(50, 12, 3, seed=5))
    for start in (0, 3, 4, 7, 12):
        resumed = GlobalBatches(50, 12, 3, seed=5, start_step=start)
        assert len(resumed) == 12 - start
        assert list(resumed) == whole[start:]


def test_shards_stay_together_in_groups() -> None:
    blocks = np.arange(0, 400, 10)  # 40 shards of 10 images
    order = epoch_order(400, 0, 0, blocks)
    assert sorted(order) == list(range(400))
    assert len(set(order[:160] // 10)) == 16  # the first group mixes exactly 16 shards
    assert len(set(order[160:320] // 10)) == 16
    assert not set(order[:160] // 10) & set(order[160:320] // 10)


@pytest.mark.parametrize(("batch", "world", "message"), [(10, 3, r"batch.*10.*\b3\b"), (60, 1, r"batch.*60.*\b50\b")])
def test_impossible_batches(batch: int, world: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        GlobalBatches(50, batch, 1, seed=0, world=world)
