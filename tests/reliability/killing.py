"""Kills forks of one warm process with real signals, at moments of the clock or of the file system."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import run_entry_point

_WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
_LONGEST = 300.0
"""Seconds after which a process counts as hanging."""


@dataclass(frozen=True)
class Kill:
    number: int
    """The signal."""
    after: float | None = None
    """Seconds since the start of the process: sent from outside, whatever it is doing."""
    match: str = ""
    """Sent at the `nth` event that matches: `os.rename …/step_000000002.pt`, or what the subject's own points say."""
    nth: int = 1
    torn: int | None = None
    """From that event on the kernel ends the process within the first write beyond this byte of a file."""


@dataclass(frozen=True)
class Ended:
    code: int
    """Exit code, or minus the signal that ended the process."""
    moment: str
    """The last event before the end."""
    events: tuple[str, ...]
    """All events: operations on files below the watched folder, and the subject's own points."""
    seconds: float
    text: str
    """What it printed."""

    @property
    def killed(self) -> bool:
        """By a signal, or after one that the run answers by saving its state."""
        return self.code < 0 or self.code == 143


class Watch:
    """Counts events in the child and strikes where the plan says so."""

    def __init__(self, folder: Path, kill: Kill | None, seen: int) -> None:
        self._folder, self._kill, self._seen, self._left = str(folder), kill, seen, kill.nth if kill else 0

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Python's own report of a file operation, before it happens."""
        if event not in _WATCHED:
            return
        path = arguments[1] if event == "os.rename" else arguments[0]
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self._folder):
            self.event(f"{event} {os.fspath(path).removeprefix(self._folder)}")

    def event(self, what: str, strike: Callable[[], object] = lambda: None) -> None:
        """Notes an event and sends the signal if its time has come, after `strike` where nobody survives it."""
        os.write(self._seen, (json.dumps(what) + "\n").encode())
        kill = self._kill
        if kill is None or kill.after is not None or not re.search(kill.match, what):
            return
        self._left -= 1
        if self._left:
            return
        if kill.torn is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (kill.torn, resource.RLIM_INFINITY))
            return
        if kill.number == signal.SIGKILL:
            strike()
        os.kill(os.getpid(), kill.number)


def run(
    main: Callable[[], None], arguments: Sequence[str], folder: Path, kill: Kill | None = None,
    points: Callable[[Watch], None] = lambda _watch: None,
) -> Ended:  # fmt: skip
    """Forks, runs the entry point `main` with `arguments`, kills as planned and waits for the end.

    `folder`: file operations below it are events; `points` adds events of the subject's own in the child.
    """
    log, seen = (folder.parent / f"{folder.name}.{what}" for what in ("log", "events"))
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _run_child(main, arguments, folder, kill, points, log, seen)
    status = _wait(child, kill.after if kill else None, kill.number if kill else 0)
    code = os.waitstatus_to_exitcode(status)
    events = tuple(json.loads(line) for line in seen.read_text().splitlines()) if seen.exists() else ()
    text = log.read_text(errors="replace") if log.exists() else ""
    for file in (log, seen):
        file.unlink(missing_ok=True)
    return Ended(code, events[-1] if events else "before the first file", events, time.monotonic() - started, text)


def _run_child(
    main: Callable[[], None], arguments: Sequence[str], folder: Path, kill: Kill | None,
    points: Callable[[Watch], None], log: Path, seen: Path,
) -> None:  # fmt: skip
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        watch = Watch(folder, kill, os.open(seen, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC))
        sys.addaudithook(watch.audit)
        points(watch)
        sys.argv = ["killed", *arguments]
        run_entry_point(main)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int, after: float | None, number: int) -> int:
    started, struck = time.monotonic(), after is None
    while time.monotonic() - started < _LONGEST:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if not struck and after is not None and time.monotonic() - started >= after:
            os.kill(child, number)
            struck = True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"process {child} hangs")
