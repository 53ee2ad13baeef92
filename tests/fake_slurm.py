"""Stand-ins for sbatch and srun: `sbatch` queues a batch script, `run_queue` runs it as Slurm would, task by task."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

_SBATCH = """#!/bin/sh
number=$((100 + $(ls {folder} | wc -l)))
cp "$1" {folder}/$number.sh
echo "Submitted batch job $number"
"""
_SRUN = """#!/bin/sh
while [ "${1#--}" != "$1" ]; do
  case $1 in --output|--error) shift 2;; *) shift;; esac
done
exec "$@"
"""


@dataclass(frozen=True)
class BatchJob:
    number: str
    options: dict[str, str]
    """What its `#SBATCH` lines say."""
    codes: tuple[int, ...]
    """Exit codes: of each task of an array, or of the one job."""
    outputs: tuple[str, ...]
    """What they printed."""


def install(folder: Path) -> str:
    """Writes the programs below `folder`; the PATH on which they come first."""
    (folder / "queue").mkdir(parents=True)
    (folder / "bin").mkdir()
    for name, text in (("sbatch", _SBATCH.replace("{folder}", str(folder / "queue"))), ("srun", _SRUN)):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    return f"{folder / 'bin'}:{os.environ['PATH']}"


def run_queue(folder: Path) -> list[BatchJob]:
    """Runs what is queued, in order; a job whose `afterok` has failed is left out, with no codes."""
    done: dict[str, BatchJob] = {}
    while waiting := sorted(script for script in (folder / "queue").glob("*.sh") if script.stem not in done):
        script = waiting[0]  # a job may have queued others
        options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script.read_text(), re.M))
        kind, _, before = options.get("dependency", "").strip("'").partition(":")
        assert not before or before in done, f"{script} waits for {before}, which was never submitted"
        runs = [] if kind == "afterok" and any(done[before].codes) else _tasks(script, options)
        codes, outputs = tuple(run.returncode for run in runs), tuple(run.stdout + run.stderr for run in runs)
        done[script.stem] = BatchJob(script.stem, options, codes, outputs)
    return list(done.values())


def _tasks(script: Path, options: dict[str, str]) -> list[subprocess.CompletedProcess[str]]:
    number = script.stem
    alone = {
        "SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0",
        "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "localhost",
    }  # fmt: skip
    array = re.match(r"0-(\d+)%", options.get("array", ""))
    own = (
        [{"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": str(task)} for task in range(int(array[1]) + 1)]
        if (array)
        else [{}]
    )
    return [
        subprocess.run(["bash", str(script)], env={**os.environ, **alone, **each}, capture_output=True, text=True,
                       timeout=240, check=False)
        for each in own
    ]  # fmt: skip
