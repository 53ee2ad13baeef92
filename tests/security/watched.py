"""Opens something in a process of its own and reports how it ended, how much memory that took, and what it wrote."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.errors import BrokenImage, UserError


@dataclass(frozen=True)
class Outcome:
    kind: str
    """`opened`, `UserError`, `BrokenImage`, or the name of an exception that should not have escaped."""
    text: str
    """Its message."""
    mebibytes: float
    """Peak memory beyond what the process had at its start."""
    seconds: float
    """Of the processor."""


def watch(action: Callable[[], object], patience: int = 60) -> Outcome:
    """Runs `action` in a fork that is ended after `patience` seconds."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(patience)
        os.write(writer, f"{idle}\n".encode())
        found = ("opened", "")
        try:
            action()
        except (UserError, BrokenImage) as error:
            found = (type(error).__name__, str(error))
        except BaseException as error:  # the test says which one it was
            found = (type(error).__name__, str(error)[:500])
        os.write(writer, json.dumps(found).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        idle = int(pipe.readline() or 0)
        content = pipe.read()
    _, status, used = os.wait4(child, 0)
    kind, text = json.loads(content) if content else (f"killed by signal {os.WTERMSIG(status)}", "")
    return Outcome(kind, text, (used.ru_maxrss - idle) / 1024, used.ru_utime + used.ru_stime)


def files_below(*roots: Path) -> set[str]:
    """Every file and folder there."""
    return {str(path) for root in roots for path in root.rglob("*")}
