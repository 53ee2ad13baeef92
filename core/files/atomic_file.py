"""Files written atomically and identified by their content."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from core.errors import UserError, first_line


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file, then moves it to `path`: readers see the old file or the complete new one.

    Raises `UserError` if the disk is full or read-only; an existing file at `path` is kept.
    """
    from safetensors import SafetensorError

    partial, lock = path.with_name(f".{path.name}.{os.getpid()}.partial"), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        lock = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.suppress(OSError):  # a disk without locks: then nobody removes another process's file
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write(partial)
        _sync(partial)  # on disk before it gets its name: a power cut can't leave a hollow file
        os.replace(partial, path)
        with contextlib.suppress(OSError):  # not every network disk knows it
            _sync(path.parent)  # and the name, before older files are removed
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch reports a full disk as a RuntimeError of its zip writer, in one of these ways.
        refused = re.search("PytorchStreamWriter|inline_container|iostream", str(error))
        if isinstance(error, RuntimeError) and not refused:
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        if refused:
            reason = "No space left on device, or a limit on the size of files"
        raise UserError(
            f"can't write {path}: {reason}; an existing file is unchanged: free space there, or allow writing, "
            f"and run the same command again"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_stale(path: Path) -> None:
    """Removes half-written files of `path` that killed processes left: those that no living process holds."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with contextlib.suppress(OSError), left.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
