"""What the runner needs of a run: an evaluation of a suite, or a training of a study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol


class Job(Protocol):
    """A command of this project that runs as a process of its own and writes its output below one folder."""

    @property
    def folder(self) -> Path:
        """Folder of its output."""

    @property
    def log(self) -> Path:
        """What it printed."""

    @property
    def title(self) -> str:
        """Display name, unique among the runs."""

    @property
    def protocol(self) -> str:
        """Runs of the same protocol take about as long as each other."""

    def script(self) -> Path:
        """The entry point."""

    def arguments(self) -> list[str]:
        """Arguments of the entry point, without device and workers."""

    def written(self) -> bool:
        """True if its output exists."""

    def numbers(self) -> str:
        """Its outcome in a few words. Raises `UserError` if its output is unreadable or holds a non-number."""


def python_command(job: Job, device: str, workers: int) -> list[str]:
    """The command that runs it in one process of this Python."""
    return [
        *(sys.executable, str(job.script()), *job.arguments()),
        *("--device", device, "--workers", str(workers)),
    ]
