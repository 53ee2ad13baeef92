"""Comparisons of ways to do a thing: timed in turn over several rounds, their ratio, one JSON each; peak memory."""

from __future__ import annotations

import argparse
import dataclasses
import json
import operator
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

SIGNS: dict[str, Callable[[float, float], bool]] = {"≥": operator.ge, "≤": operator.le, "=": operator.eq}


@dataclass(frozen=True)
class Goal:
    """Goal of a figure."""

    sign: Literal["≥", "≤", "="]
    """How the median is compared with `value`."""
    value: float
    """In the figure's own unit; for a ratio the bare number."""


@dataclass(frozen=True)
class Row:
    """One line of a comparison: what was measured for each way, and the one figure that is looked at."""

    subject: str
    """Measured quantity, e.g. `worker time of 5 views`."""
    unit: str
    """Unit of the values, e.g. `ms per image`."""
    values: dict[str, list[float]]
    """Way -> one value per round, the rounds of all ways in the same order."""
    ratio: tuple[str, str] | None = None
    """The figure is the first way's value over the second's, round by round; none: the first way's values."""
    goal: Goal | None = None
    """Goal of the figure's median."""
    note: str = ""
    """Facts that a reader needs in addition to the figures."""

    def figure(self) -> list[float]:
        """The ratios (or values) of all rounds."""
        if self.ratio is None:
            return next(iter(self.values.values()))
        over, under = (self.values[way] for way in self.ratio)
        return [a / b for a, b in zip(over, under, strict=True)]

    def reached(self) -> bool | None:
        """True if the goal is reached; None without a goal."""
        return None if self.goal is None else SIGNS[self.goal.sign](statistics.median(self.figure()), self.goal.value)


@dataclass(frozen=True)
class Report:
    """One comparison as it is written to disk."""

    benchmark: str
    """Name of the file that measured, without .py."""
    machine: dict[str, Any]
    """As `machine` gives it."""
    settings: dict[str, Any]
    """Arguments of the command line."""
    rows: list[Row]
    """All figures."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further plain values: sizes, profiles, fits."""


def benchmark_parser(description: str, rounds: int) -> argparse.ArgumentParser:
    """The arguments that all comparisons take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help="how often each way is measured")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU")
    parser.add_argument("--json", type=Path, help="write the figures there")
    return parser


def measure_in_turn(ways: Mapping[str, Callable[[], float]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Asks each way for its figure in turn, `warm_up` rounds for nothing and then `rounds`: way -> figures.

    Within a round all ways see the machine in the same state, so that their ratio is steadier than their times.
    """
    found: dict[str, list[float]] = {way: [] for way in ways}
    for round_ in range(-warm_up, rounds):
        for way, measure in ways.items():
            figure = measure()
            if round_ >= 0:
                found[way].append(figure)
    return found


def alternate(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = 1,
    scale: float = 1.0,
) -> dict[str, list[float]]:
    """Runs the ways in turn (`measure_in_turn`): way -> time of each round × `scale`."""

    def timed(run: Callable[[], object]) -> float:
        started = clock()
        run()
        return scale * (clock() - started)

    return measure_in_turn({way: partial(timed, run) for way, run in ways.items()}, rounds, warm_up)


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Machine and library versions of the measurement."""
    device = device or torch.device("cpu")
    return {
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2),
    }


def finish(benchmark: str, arguments: argparse.Namespace, rows: Sequence[Row], **facts: Any) -> None:
    """Prints the rows and, where `--json` was given, writes them."""
    device = torch.device(getattr(arguments, "device", "cpu"))
    settings = {
        key: str(value) if isinstance(value, Path) else value for key, value in vars(arguments).items() if key != "json"
    }
    report = Report(benchmark, machine(device), settings, list(rows), facts)
    print(text(report))
    if arguments.json:
        document = dataclasses.asdict(report)
        arguments.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def text(report: Report) -> str:
    """The report for a terminal."""
    about = report.machine
    lines = [
        f"{report.benchmark}: {about['name']}, {about['cores']} cores, {about['threads']} threads, "
        f"torch {about['torch']}, load {about['load']}; median (least … most)"
    ]
    for row in report.rows:
        lines.append(f"{row.subject} [{row.unit}]")
        lines += [f"  {way:44} {spread(values)}" for way, values in row.values.items()]
        if row.ratio is not None:
            lines.append(f"  {' ÷ '.join(row.ratio):44} {spread(row.figure())}")
        if row.goal is not None:
            reached = "reached" if row.reached() else "not reached"
            lines.append(f"  goal {row.goal.sign} {row.goal.value:g}: {reached}")
        if row.note:
            lines.append(f"  {row.note}")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Median (least … most); the bare value where there is one."""
    middle = f"{statistics.median(values):.4g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.4g} … {max(values):.4g})"


def from_json(document: Mapping[str, Any]) -> Report:
    """The inverse of what `finish` writes."""
    rows = [
        Row(
            **{
                **row,
                "ratio": None if row["ratio"] is None else tuple(row["ratio"]),
                "goal": None if row["goal"] is None else Goal(**row["goal"]),
            }
        )
        for row in document["rows"]
    ]
    return Report(**{**document, "rows": rows})


def cpu_name() -> str:
    """Model of the processor, as reported by the system."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine() or sys.platform


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak() -> float:
    """Forgets the peak so far; gives the memory in use now, MB."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def peak() -> float:
    """Most memory in use since `reset_peak`, MB."""
    return _status("VmHWM")


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{key}:"))
