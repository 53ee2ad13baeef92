"""The linear rule: how learning rate and iterations follow from another global batch, or from fewer processes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from evaluate.detection.settings import DetectionConfig, SolverConfig


@dataclass(frozen=True)
class Schedule:
    """The solver's numbers after `schedule` and the linear rule."""

    batch: int
    """Images per step over all processes."""
    lr: float
    """Peak learning rate."""
    iterations: int
    """Steps."""
    steps: tuple[int, ...]
    """Where the learning rate falls."""
    warmup: int
    """Steps of warm-up."""

    def __str__(self) -> str:
        falls = ", ".join(f"{step:,}" for step in self.steps) or "none"
        return (
            f"{self.iterations:,} steps of {self.batch} images, lr {self.lr:g}, falls after {falls}, warm-up "
            f"{self.warmup:,}"
        )


def schedule_of(solver: SolverConfig) -> Schedule:
    """Batch n times as large: n times the learning rate in an n-th of the steps (arXiv 1706.02677, section 2.1)."""
    batch = solver.global_batch or solver.batch
    factor = batch / solver.batch

    def count(number: float) -> int:
        return max(1, round(number / factor)) if number else 0

    iterations = count(solver.iterations * solver.schedule)
    # Rounded schedules of a few steps must still fall before they end.
    steps = tuple(sorted({count(step * solver.schedule) for step in solver.steps}))
    steps = tuple(step for step in steps if step < iterations)
    return Schedule(batch, solver.lr * factor, iterations, steps, min(count(solver.warmup), iterations))


def scale_to_processes(config: DetectionConfig, world: int) -> tuple[DetectionConfig, str]:
    """The protocol as `world` processes run it, and a sentence on how it was scaled ("" for not at all).

    With fewer processes than `solver.processes` each keeps its share of the batch, as Detectron2's
    `SOLVER.REFERENCE_WORLD_SIZE` has it; more share the batch. `solver.global_batch` decides where it is set. In the
    answer it is set exactly where the batch is not the protocol's, so that the protocol's name tells.
    """
    solver = config.solver
    batch = solver.global_batch or solver.batch // solver.processes * min(world, solver.processes)
    if batch == solver.batch:
        return dataclasses.replace(config, solver=dataclasses.replace(solver, global_batch=None)), ""
    scaled = dataclasses.replace(solver, global_batch=batch)
    schedule, factor = schedule_of(scaled), batch / solver.batch
    given = f"{world} process{'es' if world > 1 else ''} of the {solver.processes} that the protocol is for"
    why = "" if solver.global_batch else f" ({given})"
    said = (
        f"batch {solver.batch} -> {batch}{why}: learning rate × {factor:g} = {schedule.lr:g}, iterations ÷ {factor:g} "
        f"= {schedule.iterations:,} (warm-up {schedule.warmup:,}), as many images as before"
    )
    return dataclasses.replace(config, solver=scaled), said
