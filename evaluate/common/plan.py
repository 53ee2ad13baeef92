"""Plans: what an evaluation is about to do, as labelled lines printed before it starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.distributed import Processes

_WIDTH = 9


@dataclass(frozen=True)
class Plan:
    """Lines in the order in which they are printed."""

    lines: tuple[tuple[str, str], ...] = ()
    """Label, at most nine characters, and text of each line."""

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.lines)

    def __str__(self) -> str:
        """The printed form: one line per pair, texts below one another."""
        return "\n".join(f"{label:{_WIDTH}} {text}" for label, text in self.lines)


def count(number: int, one: str, many: str = "") -> str:
    """`1 process`, `2 processes`, `1,000 images`; `many` is `one` with an s where it is empty."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def processes_text(world_size: int) -> str:
    """`1 process`, `8 processes`."""
    return count(world_size, "process", "processes")


def runs_on(processes: Processes, *details: str) -> tuple[str, str]:
    """The line about device and number of processes; `details` follow, separated by semicolons."""
    from core.result import device_name

    where = f"{device_name(processes.device)}, {processes_text(processes.world_size)}"
    return "runs on", "; ".join([where, *filter(None, details)])


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
