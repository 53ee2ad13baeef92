"""Runs of a suite as processes that begin with everything imported: a server forks them.

Each is a process of its own, with its log, its exit code and its session, as one started from the command line; what it
saves is the imports of torch and timm, which take longer than a small probe. The suite's own process needs neither:
networks and GPUs are looked at in a forked process, too.
"""

from __future__ import annotations

import fcntl
import importlib
import multiprocessing
import multiprocessing.forkserver
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TextIO, TypeVar

from core.errors import UserError
from core.project import ROOT

Answer = TypeVar("Answer")

PRELOADED = "evaluate.suites.preload"


class WarmProcess:
    """A forked run with the methods of `subprocess.Popen` that the runner uses."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        assert process.pid is not None
        self.pid = process.pid

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end. Raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return self._process.exitcode


class WarmStart:
    """The server, which imports once for everything that it is asked for."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """`environment`: variables that must be set before torch is imported, such as numbers of threads."""
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([PRELOADED])
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with _set({**environment, "PYTHONPATH": path}):
            multiprocessing.forkserver.ensure_running()

    def start(self, command: list[str], log: Path, environment: Mapping[str, str]) -> WarmProcess:
        """Runs `command` (interpreter, front door, arguments) with its output at the end of `log`.

        Raises `BlockingIOError` if another process holds the log's lock.
        """
        with log.open("ab") as probe:  # the run takes the lock itself
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        process = self._context.Process(target=run_door, args=(command[1:], str(log), variables))
        process.start()
        return WarmProcess(process)

    def call(self, function: Callable[..., Answer], *arguments: Any) -> Answer:
        """Return value of `function(*arguments)`, called in a process of its own. Raises what it raises.

        Function, arguments and value are pickled.
        """
        receiver, sender = self._context.Pipe(duplex=False)
        place = (dict(os.environ), os.getcwd(), "--debug" in sys.argv)
        process = self._context.Process(target=_answer, args=(sender, function, arguments, *place))
        process.start()
        sender.close()
        try:
            good, value = receiver.recv()
        except EOFError:
            process.join()
            raise UserError(
                f"the process that plans the runs was ended (exit code {process.exitcode}); free memory and try again"
            ) from None
        process.join()
        if not good:
            raise value
        found: Answer = value
        return found


def _answer(
    sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str],
    folder: str, debug: bool,
) -> None:  # fmt: skip
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    try:
        sender.send((True, function(*arguments)))
    except KeyboardInterrupt:
        return  # the suite is interrupted, too, and reports it
    except Exception as error:
        if debug or not isinstance(error, UserError | OSError):
            traceback.print_exc()
        sender.send((False, error))


def run_door(words: list[str], log: str, environment: dict[str, str]) -> None:
    """Runs a front door in this process, as its own command line would: script and arguments."""
    os.setsid()  # Ctrl-C reaches the suite alone, which then asks its runs to stop
    multiprocessing.set_start_method(None, force=True)  # loader workers start as they do from the command line
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(output, f"$ {' '.join(words)}\n".encode())
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), _text(1), _text(2)
    sys.argv = words

    from core.compute.malloc import disable_trimming
    from core.errors import run_entry_point

    if not environment.get("CUDA_VISIBLE_DEVICES"):
        disable_trimming()  # on the CPU a step needs the memory of the one before it
    door = ".".join(Path(words[0]).relative_to(ROOT).with_suffix("").parts)
    run_entry_point(lambda: importlib.import_module(door).main())


def _text(descriptor: int) -> TextIO:
    return os.fdopen(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
