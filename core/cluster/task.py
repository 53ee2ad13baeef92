"""A command as submitit runs it: once per process of a job, stopped and started again by its checkpoint protocol."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

STOPPED = 128 + signal.SIGTERM
"""Exit code of a command that has saved its state on SIGTERM."""
SIGNAL_SECONDS = 180
"""Seconds between the signal that a job's time is over and its end."""
_SAVING_SECONDS = SIGNAL_SECONDS - 30
_RESTART = "--restart"


@dataclass
class Task:
    """Callable that starts the command in a process of its own and waits for it.

    submitit's signal comes while the command trains. Its handler calls `checkpoint`, which lets the command save its
    state; the job is then queued again and runs the same command, which resumes.
    """

    words: tuple[str, ...]
    """The command: interpreter, script, arguments."""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def __call__(self) -> None:
        """Runs the command. Raises `RuntimeError` where it fails."""
        self._process = subprocess.Popen(self.words, env=environment_of_process())
        try:
            code = _wait(self._process)
        finally:
            _end(self._process, 5)
        if code == STOPPED:
            _await_signal()
            sys.exit(STOPPED)
        if code:
            raise RuntimeError(
                f"{shlex.join(self.words)} ended with exit code {code}; its message is in this job's log"
            )

    def checkpoint(self) -> Any:
        """Lets the command save its state and end; returns submitit's next submission: the same command."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            _end(self._process, _SAVING_SECONDS)
        return DelayedSubmission(Task(tuple(word for word in self.words if word != _RESTART)))


def environment_of_process() -> dict[str, str]:
    """Environment of the command: that of torchrun's processes, if the job has several."""
    from submitit.helpers import TorchDistributedEnvironment

    found = TorchDistributedEnvironment()
    own = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    if found.world_size == 1:
        return own
    return own | {
        "RANK": str(found.rank),
        "WORLD_SIZE": str(found.world_size),
        "LOCAL_RANK": str(found.local_rank),
        "LOCAL_WORLD_SIZE": str(found.local_world_size),
        "MASTER_ADDR": found.master_addr,
        "MASTER_PORT": str(found.master_port),
    }


def _await_signal() -> None:
    """Waits for the job's end after its command has stopped.

    On preemption Slurm signals the command too, perhaps before submitit; and the other processes' commands stop
    together with that of the first. A process that ended now would take the first one with it, before it has queued
    the job again.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
        time.sleep(_SAVING_SECONDS)


def _wait(process: subprocess.Popen[bytes], seconds: float = float("inf")) -> int | None:
    """Exit code; None if it has not ended in time. Unlike Popen's, may be called again by a signal handler."""
    until = time.monotonic() + seconds
    while process.returncode is None and os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > until:
            return None
        time.sleep(0.1)
    return process.wait()


def _end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Ends the command by SIGTERM; by SIGKILL if it takes longer than `seconds`."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        if _wait(process, seconds) is None:
            process.kill()
            process.wait()
