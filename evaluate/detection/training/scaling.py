"""Linear scaling rule for Detectron2's solver: its values at another global batch, or with fewer processes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from evaluate.common.batch_scaling import batch_of_processes, scaled_steps, sentence
from evaluate.detection.settings import DetectionConfig, SolverConfig


@dataclass(frozen=True)
class Schedule:
    """Solver values after `schedule` and the linear rule."""

    batch: int
    """Images per step over all processes."""
    lr: float
    """Peak learning rate."""
    iterations: int
    """Training steps."""
    steps: tuple[int, ...]
    """Steps after which the learning rate is divided by 10."""
    warmup: int
    """Steps of warm-up."""

    def __str__(self) -> str:
        falls = ", ".join(f"{step:,}" for step in self.steps) or "none"
        return (
            f"{self.iterations:,} steps of {self.batch} images, lr {self.lr:g}, falls after {falls}, warm-up "
            f"{self.warmup:,}"
        )


def schedule_of(solver: SolverConfig) -> Schedule:
    """Solver values by the linear rule."""
    batch = solver.global_batch or solver.batch
    factor = batch / solver.batch

    iterations = scaled_steps(solver.iterations * solver.schedule, factor)
    # Rounded schedules of a few steps must still fall before they end.
    steps = tuple(sorted({scaled_steps(step * solver.schedule, factor) for step in solver.steps}))
    steps = tuple(step for step in steps if step < iterations)
    return Schedule(batch, solver.lr * factor, iterations, steps, min(scaled_steps(solver.warmup, factor), iterations))


def scale_to_processes(config: DetectionConfig, world: int) -> tuple[DetectionConfig, str]:
    """The protocol as `world` processes run it, and a sentence about how it was scaled ("" if it wasn't).

    `solver.global_batch` takes precedence over the number of processes. The returned config sets it only if the batch
    differs from the protocol's, so that the full name shows the difference.
    """
    solver = config.solver
    batch, why = batch_of_processes(solver.batch, solver.processes, world)
    if solver.global_batch:
        batch, why = solver.global_batch, ""
    if batch == solver.batch:
        return dataclasses.replace(config, solver=dataclasses.replace(solver, global_batch=None)), ""
    scaled = dataclasses.replace(solver, global_batch=batch)
    schedule = schedule_of(scaled)
    text = sentence(solver.batch, batch, why, schedule.lr, schedule.iterations, schedule.warmup)
    return dataclasses.replace(config, solver=scaled), text
