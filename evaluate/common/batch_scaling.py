"""Linear scaling rule for all engines: another batch changes learning rate and steps, at an equal number of images.

"Accurate, Large Minibatch SGD", arXiv 1706.02677, section 2.1: n times the learning rate in an n-th of the steps.
"""

from __future__ import annotations

from evaluate.common.plan import processes_text


def batch_of_processes(batch: int, meant: int, world: int) -> tuple[int, str]:
    """Batch of a protocol for `meant` processes on `world` processes, and the reason in parentheses.

    Of fewer processes each keeps its share, as with Detectron2's `SOLVER.REFERENCE_WORLD_SIZE`; more share the batch.
    """
    why = f" ({processes_text(world)} of the {meant} that the protocol is for)"
    return batch // meant * min(world, meant), why


def scaled_steps(steps: float, factor: float) -> int:
    """Steps at a batch `factor` times as large: at least one, but 0 for 0."""
    return max(1, round(steps / factor)) if steps else 0


def sentence(before: int, batch: int, why: str, lr: float, iterations: int, warmup: int) -> str:
    """Sentence for the plan about a protocol scaled from `before` to `batch` images per step."""
    factor = batch / before
    return (
        f"batch {before} -> {batch}{why}: learning rate × {factor:g} = {lr:g}, iterations ÷ {factor:g} "
        f"= {iterations:,} (warm-up {warmup:,}), as many images as before"
    )
