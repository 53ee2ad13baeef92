"""Linear rule for MMSegmentation's schedule: learning rate and iterations at another global batch."""

from __future__ import annotations

import dataclasses

from core.errors import UserError
from evaluate.common.batch_scaling import batch_of_processes, scaled_steps, sentence
from evaluate.segmentation.protocol import SegmentConfig


def scale_to_batch(config: SegmentConfig, batch: int | None, world: int) -> tuple[SegmentConfig, str]:
    """Protocol at another global batch, and a sentence about the scaling ("" if there is none).

    Without `batch`, the number of processes `world` and `schedule.processes` decide. Raises `UserError` below 1.
    """
    why = ""
    if batch is None:
        batch, why = batch_of_processes(config.batch, config.schedule.processes, world)
    if batch == config.batch:
        return config, ""
    if batch < 1:
        raise UserError(f"--batch must be at least 1, not {batch}")
    factor = batch / config.batch
    schedule = config.schedule

    try:
        scaled = dataclasses.replace(
            config,
            batch=batch,
            optim=dataclasses.replace(config.optim, lr=float(f"{config.optim.lr * factor:.12g}")),
            schedule=dataclasses.replace(
                schedule,
                iterations=scaled_steps(schedule.iterations, factor),
                warmup=scaled_steps(schedule.warmup, factor),
                processes=1,  # any number of them share this batch
                steps=tuple(scaled_steps(step, factor) for step in schedule.steps),
                min_lr=float(f"{schedule.min_lr * factor:.12g}"),
            ),
        )
    except ValueError as error:
        raise UserError(
            f"--batch {batch} leaves {scaled_steps(schedule.iterations, factor):,} of {schedule.iterations:,} "
            f"iterations, too few for the schedule ({error}); choose a smaller batch"
        ) from None
    text = sentence(config.batch, batch, why, scaled.optim.lr, scaled.schedule.iterations, scaled.schedule.warmup)
    return scaled, text


def batch_per_process(batch: int, world: int) -> int:
    """Images per step of each process. Raises `UserError` if the batch can't be divided evenly."""
    if batch % world:
        near = max(world, batch // world * world)
        raise UserError(f"a batch of {batch} can't be divided among {world} processes; pass e.g. --batch {near}")
    return batch // world
