"""A suite as commands for a cluster: torchrun lines, or sbatch lines around them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from core.project import command
from evaluate.suites.plan import Run

Form = Literal["torchrun", "slurm"]


def commands(runs: Sequence[Run], form: Form, gpus: int, results: Path) -> str:
    """One line of bash for each run, to be started in any order; the table's command comes as a comment at the end."""
    lines = ["# for bash"]
    for run in runs:
        torchrun = [
            *("torchrun", "--standalone", f"--nproc-per-node={gpus}", _short(run.script())),
            *(str(argument) for argument in run.arguments()),
        ]
        folder, log = shlex.quote(str(run.folder)), shlex.quote(str(run.log))
        lines.append(f"# {run.title}")
        if form == "torchrun":
            # Without pipefail the line would end as tee does, whatever happened to the run.
            lines.append(f"mkdir -p {folder} && (set -o pipefail; {shlex.join(torchrun)} 2>&1 | tee -a {log})")
        else:
            sbatch = [
                *("sbatch", f"--job-name={run.evaluation.protocol}-seed{run.seed}", "--nodes=1", "--ntasks=1"),
                *(f"--gpus-per-node={gpus}", f"--chdir={Path.cwd()}", "--open-mode=append", f"--output={run.log}"),
                f"--wrap={shlex.join(torchrun)}",
            ]
            lines.append(f"mkdir -p {folder} && {shlex.join(sbatch)}")
    table = command("evaluate/table.py", str(results))
    return "\n".join([*lines, f"# when all have ended: {table}"])


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
