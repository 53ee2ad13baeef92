"""The circumstances of one run: processes, loader workers and seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from core.distributed import Processes


@dataclass(frozen=True)
class RunContext:
    """Arguments that every step of an evaluation needs and none changes."""

    processes: Processes
    """This process among its peers."""
    workers: int
    """Loader processes of this rank."""
    seed: int
    """Seed of every random choice."""

    @property
    def device(self) -> torch.device:
        """Device of this process."""
        return self.processes.device

    @property
    def is_main(self) -> bool:
        """True on the process that writes files and prints."""
        return self.processes.is_main
