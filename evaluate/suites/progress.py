"""Progress of a suite: finished runs and time left."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from evaluate.common.plan import duration
from evaluate.suites.job import Job

_EVERY = 60.0  # seconds between two lines where nothing can be overwritten


class Progress:
    """Prints one line when a run starts and ends, and in between how it goes.

    On a terminal the last line is kept up to date; elsewhere a line comes each minute.
    """

    def __init__(
        self, runs: Sequence[Job], jobs: int, known: Mapping[str, float], out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._left = list(runs)
        self._total, self._jobs, self._out, self._clock = len(runs), jobs, out or sys.stdout, clock
        self._seconds: dict[str, list[float]] = {protocol: [value] for protocol, value in known.items()}
        self._running: dict[str, tuple[Job, float]] = {}
        self._failed = 0
        self._printed = clock()
        self._terminal = self._out.isatty()

    def started(self, run: Job) -> None:
        self._running[run.title] = (run, self._clock())
        self._left.remove(run)
        self._line(f"starts    {run.title}")

    def ended(self, run: Job, text: str, failed: bool) -> None:
        """`text`: the numbers, or the error."""
        seconds = self._clock() - self._running.pop(run.title)[1]
        if failed:
            self._failed += 1
        else:
            self._seconds.setdefault(run.protocol, []).append(seconds)
        word = "FAILED   " if failed else "done     "
        self._line(f"{word} {run.title}: {text} ({duration(seconds)}); {self.overall()}")

    def tick(self, tail: Callable[[Job], str]) -> None:
        """Periodic update; `tail(run)` returns its last output line."""
        if self._terminal:
            first = next((run for run, _ in self._running.values()), None)
            last = f" | {first.protocol}: {tail(first)}" if first else ""
            self._out.write("\r\x1b[K" + f"{self.overall()}{last}"[:118])
            self._out.flush()
        elif self._clock() - self._printed >= _EVERY:
            self._line(f"running   {self.overall()}")
            for run, since in self._running.values():
                self._line(f"          {run.title} since {duration(self._clock() - since)}: {tail(run)}")

    def overall(self) -> str:
        done = self._total - len(self._left) - len(self._running)
        text = f"{done} of {self._total} runs{f', {self._failed} failed' if self._failed else ''}"
        if done == self._total or (eta := self.eta()) is None:
            return text
        remaining = {run.protocol for run in (*self._left, *(run for run, _ in self._running.values()))}
        return f"{text}, {'about' if remaining <= self._seconds.keys() else 'more than'} {duration(eta)} left"

    def eta(self) -> float | None:
        """Seconds until the end, from the mean time of runs of the same protocol; None while nothing is known.

        A protocol of which no run has ended yet is taken to last as long as the others on average, or as long as its
        own have been running if that is longer.
        """
        if not self._seconds:
            return None
        now = self._clock()
        means = {protocol: statistics.fmean(values) for protocol, values in self._seconds.items()}
        anything = statistics.fmean(means.values())
        for run, since in self._running.values():
            if run.protocol not in self._seconds:
                means[run.protocol] = max(means.get(run.protocol, anything), now - since)
        waiting = [means.get(run.protocol, anything) for run in self._left]
        running = [max(0.0, means[run.protocol] - (now - since)) for run, since in self._running.values()]
        return max([*running, *waiting, (sum(waiting) + sum(running)) / self._jobs])

    def _line(self, text: str) -> None:
        self._printed = self._clock()
        self._out.write(("\r\x1b[K" if self._terminal else "") + text + "\n")
        self._out.flush()
