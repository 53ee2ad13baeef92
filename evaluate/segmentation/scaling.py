"""The linear rule: how learning rate and iterations follow from another global batch, or from fewer processes."""

from __future__ import annotations

import dataclasses

from core.errors import UserError
from evaluate.segmentation.protocol import SegmentConfig


def scale_to_batch(config: SegmentConfig, batch: int | None, world: int) -> tuple[SegmentConfig, str]:
    """The protocol at another global batch, and a sentence on how it was scaled ("" for not at all).

    Where no `batch` is given and `world` is fewer than `schedule.processes`, each process keeps its share of the batch.
    With f = batch / the protocol's: learning rates × f; iterations, warm-up and steps ÷ f, so that equally many images
    are seen ("Accurate, Large Minibatch SGD", arXiv 1706.02677, section 2.1). Raises `UserError` below 1.
    """
    meant, why = config.schedule.processes, ""
    if batch is None:
        batch = config.batch // meant * min(world, meant)
        why = f" ({world} process{'es' if world > 1 else ''} of the {meant} that the protocol is for)"
    if batch == config.batch:
        return config, ""
    if batch < 1:
        raise UserError(f"--batch must be at least 1, not {batch}")
    factor = batch / config.batch
    schedule = config.schedule

    def longer(iterations: int) -> int:
        return max(1, round(iterations / factor)) if iterations else 0

    try:
        scaled = dataclasses.replace(
            config,
            batch=batch,
            optim=dataclasses.replace(config.optim, lr=float(f"{config.optim.lr * factor:.12g}")),
            schedule=dataclasses.replace(
                schedule,
                iterations=longer(schedule.iterations),
                warmup=longer(schedule.warmup),
                processes=1,  # any number of them share this batch
                steps=tuple(longer(step) for step in schedule.steps),
                least_lr=float(f"{schedule.least_lr * factor:.12g}"),
            ),
        )
    except ValueError as error:
        raise UserError(
            f"--batch {batch} leaves {longer(schedule.iterations):,} of {schedule.iterations:,} iterations, too few "
            f"for the schedule ({error}); choose a smaller batch"
        ) from None
    return scaled, (
        f"batch {config.batch} -> {batch}{why}: learning rate × {factor:g} = {scaled.optim.lr:g}, iterations ÷ "
        f"{factor:g} = {scaled.schedule.iterations:,} (warm-up {scaled.schedule.warmup:,}), as many images as before"
    )


def batch_per_process(batch: int, world: int) -> int:
    """Images per step of each process. Raises `UserError` where they can't be shared out evenly."""
    if batch % world:
        near = max(world, batch // world * world)
        raise UserError(f"a batch of {batch} can't be shared among {world} processes; pass e.g. --batch {near}")
    return batch // world
