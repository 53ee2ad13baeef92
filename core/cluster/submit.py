"""Submits commands through submitit: one job, or an array of jobs, after others."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.cluster.options import Resources, without_launcher
from core.cluster.task import SIGNAL_SECONDS, Task
from core.errors import UserError, first_line
from core.project import ROOT, extra

FOLDER = Path("submitit")
"""Folder, below the working directory, of the jobs' logs and of what submitit notes."""
_MOST_TIMEOUTS = 50


@dataclass(frozen=True)
class Submitted:
    """A job, or an array of them."""

    number: str
    """Id by which others wait for it."""
    logs: tuple[Path, ...]
    """Log of the first process of each job."""


def submit_this_command(resources: Resources) -> None:
    """Submits the command line of this process, without `--launcher` and what belongs to it; prints where it went."""
    words = [sys.executable, str(Path(sys.argv[0]).resolve()), *without_launcher(sys.argv[1:])]
    job = submit([words], resources, Path(sys.argv[0]).stem)
    cancel = f"kill -INT {job.number}" if resources.local else f"scancel {job.number}"
    print(f"submitted: job {job.number} on {resources.nodes} × {resources.processes} processes")
    print(f"log: {job.logs[0]}  (end it: {cancel}; the same command resumes it)")


def submit(
    commands: Sequence[Sequence[str]], resources: Resources, name: str, at_once: int = 1, after: str = ""
) -> Submitted:
    """Submits commands as one array, of which `at_once` run at a time; a single one as a plain job.

    `after`: Slurm's dependency, such as `afterok:123`. Raises `UserError` where submitit or Slurm is missing, or where
    Slurm refuses the job.
    """
    try:
        import submitit
        import submitit.helpers
    except ImportError:
        raise UserError(f"--launcher submitit needs the package submitit: {extra('cluster')}") from None
    limits = {"slurm_max_num_timeout": _MOST_TIMEOUTS, "local_max_num_timeout": _MOST_TIMEOUTS}
    try:
        executor = submitit.AutoExecutor(FOLDER / "%j", cluster="local" if resources.local else "slurm", **limits)
    except RuntimeError as error:
        raise UserError(f"{first_line(error)} Run this on a host of the cluster, or take submitit-local") from None
    # Jobs start in the working directory, in which the project's packages need not lie.
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ["PYTHONPATH"] = path
    executor.update_parameters(
        name=name,
        timeout_min=resources.minutes,
        nodes=resources.nodes,
        tasks_per_node=resources.processes,
        gpus_per_node=resources.gpus or None,
        cpus_per_task=resources.cpus,
        slurm_partition=resources.partition,
        slurm_account=resources.account,
        slurm_qos=resources.qos,
        slurm_array_parallelism=at_once,
        slurm_signal_delay_s=SIGNAL_SECONDS,
        slurm_srun_args=["--kill-on-bad-exit=1"],
        slurm_additional_parameters=_more(after),
    )
    try:
        # A job that submits others must not pass its own place in Slurm on to them.
        within = submitit.helpers.clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext()
        with within, executor.batch():
            jobs = [executor.submit(Task(tuple(words))) for words in commands]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError, OSError) as error:
        raise UserError(f"Slurm refused the job ({first_line(error)}); check --partition, --account, --time") from None
    return Submitted(jobs[0].job_id.partition("_")[0], tuple(job.paths.stdout for job in jobs))


def _more(after: str) -> dict[str, Any]:
    """Further lines of the batch script."""
    waits = {"dependency": after, "kill-on-invalid-dep": "yes"} if after else {}
    return {"requeue": True, **waits}
