"""State of an unfinished probe: saved after each whole epoch, so that the same command resumes a killed run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.checkpoints import read_tensors
from core.distributed import Processes, gather_objects
from core.errors import UserError
from core.files.atomic_file import write_atomically


class ProbeState:
    """The state file of one measurement, written by rank 0, read by all."""

    def __init__(self, path: Path, identity: str, processes: Processes, started: float | None = None) -> None:
        """`identity`: everything that decides the numbers; a state of another one is refused. `started`: time.time()
        at the start of this session, if it began earlier."""
        self._path, self._identity, self._processes = path, identity, processes
        self._started, self._before = time.time() if started is None else started, 0.0

    def load(self) -> dict[str, Any] | None:
        """The saved state, None if there is none. Raises `UserError` on all ranks for one of another measurement."""
        found = gather_objects(self._path.is_file())[0]
        if not found:
            return None
        try:
            state = read_tensors(self._path)
        except UserError as error:
            raise UserError(f"{error}; remove it to start again") from None
        if not isinstance(state, dict) or state.get("identity") != self._identity:
            raise UserError(
                f"{self._path} belongs to another unfinished measurement; remove it or choose another folder with --out"
            )
        if not isinstance(seconds := state.get("seconds"), int | float) or not 0 <= seconds < 1e12:
            raise self._damaged("no wall time")
        self._before = float(seconds)
        return state

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """For the block that takes a loaded state apart: what doesn't fit there becomes a `UserError`."""
        try:
            yield
        except UserError:
            raise
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, reason: str) -> UserError:
        first = (reason.splitlines() or ["it lacks something"])[0][:200]
        return UserError(f"{self._path} is damaged ({first}); remove it to start this measurement again")

    def save(self, state: dict[str, Any]) -> None:
        """Replaces the file, atomically."""
        if self._processes.is_main:
            document = {"identity": self._identity, "seconds": self.seconds(), **state}
            write_atomically(self._path, lambda partial: torch.save(document, partial))

    def seconds(self) -> float:
        """Wall time of all sessions so far."""
        return self._before + time.time() - self._started

    def remove(self) -> None:
        """After the result is written."""
        if self._processes.is_main:
            self._path.unlink(missing_ok=True)


def copy_exactly(mine: Tensor, saved: Any, name: str) -> None:
    """Copies a saved tensor into one of ours.

    Raises `ValueError` if torch would repeat it to fill the place, or if it has non-finite values.
    """
    if not isinstance(saved, Tensor) or saved.shape != mine.shape or not bool(torch.isfinite(saved).all()):
        raise ValueError(f"{name} is not a finite tensor of shape {list(mine.shape)}")
    mine.copy_(saved)
