"""Parts of a long measurement within a budget of seconds: what fits is run, and what fails leaves the others alone."""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.alternate import Row

HURRY = 2.5


@dataclass
class Job:
    """What parts know of each other and of the command line."""

    arguments: argparse.Namespace
    """Arguments of the command line."""
    device: torch.device
    """Device of the measurement."""
    deadline: float
    """End of the budget, on `time.monotonic`'s clock."""
    hurry: bool = False
    """True in a small budget: no part may take more than `HURRY` times the least that it needs."""

    def left(self) -> float:
        """Seconds left."""
        return self.deadline - time.monotonic()


@dataclass
class Found:
    """Findings of one part."""

    rows: list[Row] = field(default_factory=list)
    """Figures."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further plain values."""
    failure: str = ""
    """What failed, if something did."""


@dataclass(frozen=True)
class Part:
    """One of the measurements."""

    run: Callable[[Job], Found]
    """Measures."""
    seconds: float
    """Time that it needs at least, in a small budget on an H100: it isn't begun with less."""
    limit: float
    """Seconds after which it is interrupted."""
    needs_cuda: bool = False
    """True where nothing of it runs on a CPU."""


class TimeIsUp(Exception):
    """A part has used up its time."""


def run_parts(
    parts: Mapping[str, Part],
    chosen: Sequence[str],
    job: Job,
    save: Callable[[list[Row], list[Row], dict[str, Any]], None],
) -> dict[str, str]:
    """Runs the chosen parts in turn and calls `save(new rows, all rows, facts)` after each: name -> `done` or why not.

    facts: `parts` has state and seconds of each part chosen, the rest what the parts found, by name.
    """
    rows: list[Row] = []
    facts: dict[str, Any] = {"parts": {name: {"state": "not run: the call ended before"} for name in chosen}}
    for name in chosen:
        part, begun = parts[name], time.monotonic()
        found, state = _attempt(part, job)
        rows += found.rows
        if found.facts:
            facts[name] = found.facts
        seconds = round(time.monotonic() - begun, 1)
        facts["parts"][name] = {"state": state, "seconds": seconds}
        print(f"{name}: {state} ({seconds:.0f} s, {job.left():.0f} s left)", flush=True)
        save(found.rows, rows, facts)
    return {name: about["state"] for name, about in facts["parts"].items()}


def _attempt(part: Part, job: Job) -> tuple[Found, str]:
    if part.needs_cuda and job.device.type != "cuda":
        return Found(), "not run: needs CUDA"
    if job.left() < part.seconds:
        return Found(), f"not run: needs {part.seconds:.0f} s, and {max(0, job.left()):.0f} s are left"
    try:
        limit = min(part.limit, HURRY * part.seconds) if job.hurry else part.limit
        with _limited(min(limit, max(part.seconds, job.left()))):
            found = part.run(job)
        return found, f"failed: {found.failure}" if found.failure else "done"
    except TimeIsUp:
        return Found(), "failed: its time was up"
    except Exception as error:  # whatever a library raises: the other parts still run
        traceback.print_exc(file=sys.stderr)
        return Found(), f"failed: {type(error).__name__}: {str(error).strip()[:1000]}"
    finally:
        if job.device.type == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Context that raises `TimeIsUp` in this (the main) thread after `seconds`."""

    def stop(*_: object) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
