"""The linear rule, one for all engines: another batch changes learning rate and steps so that the images stay as many.

"Accurate, Large Minibatch SGD", arXiv 1706.02677, section 2.1: n times the learning rate in an n-th of the steps.
"""

from __future__ import annotations


def batch_of_processes(batch: int, meant: int, world: int) -> tuple[int, str]:
    """The batch that `world` processes run of a protocol for `meant`, and why, as words to put behind it.

    Fewer processes keep each its share, as Detectron2's `SOLVER.REFERENCE_WORLD_SIZE` has it; more share the batch.
    """
    why = f" ({world} process{'es' if world > 1 else ''} of the {meant} that the protocol is for)"
    return batch // meant * min(world, meant), why


def scaled_steps(steps: float, factor: float) -> int:
    """Steps of a batch `factor` times as large: at least one, and none of none."""
    return max(1, round(steps / factor)) if steps else 0


def sentence(before: int, batch: int, why: str, lr: float, iterations: int, warmup: int) -> str:
    """How a protocol was scaled from `before` to `batch` images per step, for the plan."""
    factor = batch / before
    return (
        f"batch {before} -> {batch}{why}: learning rate × {factor:g} = {lr:g}, iterations ÷ {factor:g} "
        f"= {iterations:,} (warm-up {warmup:,}), as many images as before"
    )
