"""Start-up: CPU time of `--help` of every entry point. `python benchmarks/startup.py`"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks.alternate import Goal, Row, benchmark_parser, finish, measure_in_turn

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("converters", "evaluate", "pretrain")


def main() -> None:
    """One row per entry point, slowest first."""
    arguments = benchmark_parser("Time --help of every entry point.", rounds=5).parse_args()
    taken = measure_in_turn({str(file): help_seconds(file) for file in entry_points()}, arguments.rounds)
    rows = [
        Row(f"`{file} --help`", "s of CPU", {"ours": values}, goal=Goal("≤", 0.5))
        for file, values in sorted(taken.items(), key=lambda item: -max(item[1]))
    ]
    finish("startup", arguments, rows)


def entry_points() -> list[Path]:
    """The scripts that a user starts, relative to the project's root."""
    files = (file for folder in FOLDERS for file in sorted((ROOT / folder).glob("*.py")))
    return [file.relative_to(ROOT) for file in files if "run_entry_point(main" in file.read_text(encoding="utf-8")]


def help_seconds(file: Path) -> Callable[[], float]:
    """A function that asks for the help once; user and system time of the process."""

    def measure() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, str(file), "--help"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    return measure


if __name__ == "__main__":
    main()
