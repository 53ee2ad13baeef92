"""A suite on a cluster: as one array of jobs with the table after it, or as torchrun lines for other schedulers."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from core.cluster.options import Resources
from core.errors import UserError
from core.project import ROOT, command
from evaluate.suites.plan import Run

TABLE_MINUTES = 30
"""Time of a job that plans, or prints a table."""


def submit_runs(runs: Sequence[Run], resources: Resources, device: str, at_once: int, results: Path) -> str:
    """Submits the runs as one array, and the table after they have all ended; says where the logs are."""
    from core.cluster.submit import submit

    words = [[sys.executable, str(run.script()), *run.arguments(), "--device", device] for run in runs]
    array = submit(words, resources, "evaluations", at_once)
    shown = submit(
        [[sys.executable, str(ROOT / "evaluate/table.py"), str(results)]], on_one_core(resources), "table",
        after=f"afterany:{array.number}",
    )  # fmt: skip
    lines = [f"  {log}: {run.title}" for run, log in zip(runs, array.logs, strict=True)]
    return "\n".join([f"submitted: array {array.number}, {at_once} at once", *lines, f"table: {shown.logs[0]}"])


def submit_later(job: str, resources: Resources) -> str:
    """Submits this command line without `--after`, as a job on one core that waits for another; says where it went."""
    from core.cluster.submit import submit

    if not job.isdecimal():
        raise UserError(f"--after must be the number of a job, not {job!r}")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--after")
    again = [sys.executable, str(Path(sys.argv[0]).resolve()), *parser.parse_known_args(sys.argv[1:])[1]]
    waiting = submit([again], on_one_core(resources), "suite", after=f"afterok:{job}")
    return f"submitted: job {waiting.number}, which submits the evaluations after job {job}; log: {waiting.logs[0]}"


def on_one_core(resources: Resources) -> Resources:
    """The same account and partition for a job that plans, or prints a table."""
    return replace(resources, nodes=1, processes=1, gpus=0, cpus=1, minutes=TABLE_MINUTES)


def commands(runs: Sequence[Run], gpus: int, results: Path) -> str:
    """One line of bash for each run, to be started in any order; the table's command comes as a comment at the end."""
    lines = ["# for bash"]
    for run in runs:
        torchrun = [
            *("torchrun", "--standalone", f"--nproc-per-node={gpus}", _short(run.script())),
            *(str(argument) for argument in run.arguments()),
        ]
        folder, log = shlex.quote(str(run.folder)), shlex.quote(str(run.log))
        lines.append(f"# {run.title}")
        # Without pipefail the line would end as tee does, whatever happened to the run.
        lines.append(f"mkdir -p {folder} && (set -o pipefail; {shlex.join(torchrun)} 2>&1 | tee -a {log})")
    table = command("evaluate/table.py", str(results))
    return "\n".join([*lines, f"# when all have ended: {table}"])


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
