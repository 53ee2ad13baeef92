"""Failures of the machine that a library tells in its own words: each as one sentence with a way out."""

from __future__ import annotations

import errno
import os
import re
import time

_PEER_GONE = re.compile(r"onnection (closed|reset|refused)|pair closure|Broken pipe|Socket closed|recv.*failed", re.I)
_DEAD_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? .*?(is killed by signal: ([\w ]+)|exited unexpectedly)")
_SHARED_MEMORY = re.compile(r"shared memory|\(shm\)|</torch_\d+|Bus error")


def explain(error: BaseException) -> str:
    """What the user should be told about `error`; empty where it is no known failure of the machine."""
    text = str(error)
    dead = _DEAD_WORKER.search(text)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
        return (
            "no space left on a disk that is written to, or in shared memory (/dev/shm); free space there, or pass "
            "--workers 0 where it is shared memory"
        )
    if isinstance(error, RuntimeError) and _SHARED_MEMORY.search(text):
        return (
            "shared memory (/dev/shm) is too small for the loader processes; enlarge it (docker run --shm-size=8g), or "
            "pass --workers 0"
        )
    if isinstance(error, RuntimeError) and dead:
        return (
            f"a loader process has died ({dead.group(2) or 'it ended by itself'}), perhaps for want of memory; lower "
            f"--workers and give the same command again"
        )
    if isinstance(error, RuntimeError) and in_torchrun() and _PEER_GONE.search(text):
        return (
            f"another process of the run has ended, so rank {os.environ['RANK']} stops too; the other one's message "
            f"says why, and the same command goes on"
        )
    return ""


def in_torchrun() -> bool:
    """Whether this is one of several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def wait_for_root_cause(follows_from_another: bool) -> None:
    """Waits where another process of the host is likely to tell the same, or the cause.

    The launcher ends all others as soon as one has ended, so what all find is told once, and what only one finds is
    told after a while. `follows_from_another`: this process only stops because another one did.
    """
    if in_torchrun() and (follows_from_another or os.environ.get("LOCAL_RANK", "0") != "0"):
        time.sleep(10 if follows_from_another else 5)
