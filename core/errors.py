"""The two kinds of trouble that are not bugs: a user's mistake and a broken image."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import time
import traceback
from collections.abc import Callable

_PEER_GONE = re.compile(r"onnection (closed|reset|refused)|pair closure|Broken pipe|Socket closed|recv.*failed", re.I)
_DEAD_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? .*?(is killed by signal: ([\w ]+)|exited unexpectedly)")
_SHARED_MEMORY = re.compile(r"shared memory|\(shm\)|</torch_\d+|Bus error")


class UserError(ValueError):
    """A mistake the user can mend. Its text is one sentence: what is wrong, where, and a way out."""

    def __init__(self, text: str) -> None:
        # Names and values from files may hold line breaks; what is printed is one line.
        super().__init__(" ".join(str(text).splitlines()))


class BrokenImage(Exception):
    """An image that can't be decoded. `where` names it (a path, or `shard.tar::member`)."""

    def __init__(self, where: str, reason: str) -> None:
        # Both values go to the base class: a worker process pickles the exception by its arguments.
        super().__init__(where, reason)
        self.where = where
        self.reason = reason

    def __str__(self) -> str:
        return " ".join(f"{self.where}: {self.reason}".splitlines())


def run_entry_point(main: Callable[[], None]) -> None:
    """Runs `main`; a `UserError` becomes one line on stderr and exit code 2, without a traceback.

    So does trouble that the operating system has with a file. `--debug` on the command line shows the traceback as
    well. Bugs (all other exceptions) keep theirs. Of several processes that find the same only one says so.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
        code = 0
    except UserError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        wait_for_root_cause(follows_from_another=False)
        # A loader worker's error arrives wrapped in its traceback.
        print(f"error: {str(error).rsplit('UserError: ', 1)[-1].strip()}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of our stdout (head, less) went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except (RuntimeError, OSError) as error:
        sentence = explain(error)
        if not sentence and isinstance(error, OSError) and error.filename is not None:
            # A name that is too long, a folder that can't be entered, a disk that went away.
            sentence = f"{error.filename}: {error.strerror}; give another place, or mend that one"
        if not sentence:
            raise
        if "--debug" in sys.argv:
            traceback.print_exc()
        wait_for_root_cause(follows_from_another=sentence.startswith("another process"))
        print(f"error: {sentence}", file=sys.stderr)
        code = 2
    if code:
        sys.exit(code)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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
