"""Folders that appear complete or not at all, even if several processes write the same one."""

from __future__ import annotations

import ctypes
import fcntl
import glob
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.errors import UserError

_JUST_MADE = 60
"""Seconds."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of renameat2(2)


@contextmanager
def atomic_folder(root: Path, is_done: Callable[[], bool]) -> Iterator[Path]:
    """Yields an empty folder beside `root` that replaces `root` if the block succeeds.

    If `is_done()` finds that another process was quicker, its folder stays. After an exception everything is as before.
    Leftovers of killed processes are cleaned up first: unfinished folders are removed, and an old folder that was moved
    aside without a new one in its place is moved back.

    Raises:
        UserError: if no folder can be made there.
    """
    part = root.with_name(f".{root.name}.{uuid.uuid4().hex}.part")
    recover_folder(root)
    try:
        part.mkdir(parents=True)
        lock = os.open(part, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"can't make a folder in {root.parent} ({error.strerror}): choose another place") from error
    try:
        with suppress(OSError):  # a file system without locks: then nobody removes another process's folder
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield part
        if is_done():
            return
        if root.exists():
            _replace(part, root, is_done)
        else:
            _move(part, root, is_done)
    finally:
        if part.is_symlink():  # `root` was a link; the folder that it leads to is not ours
            part.unlink()
        shutil.rmtree(part, ignore_errors=True)
        os.close(lock)


def recover_folder(root: Path) -> None:
    """Cleans up what killed processes left of `root`: removes unfinished folders, moves an old one back into place."""
    name = glob.escape(root.name)
    for left in root.parent.glob(f".{name}.*.part"):
        with _stale(left, _JUST_MADE) as stale:
            if stale:
                shutil.rmtree(left, ignore_errors=True)
    for old in root.parent.glob(f".{name}.*.old"):
        with _stale(old, 0) as stale, suppress(OSError):
            if stale and not root.exists():
                os.rename(old, root)
            elif stale:
                shutil.rmtree(old, ignore_errors=True)


def _replace(part: Path, root: Path, is_done: Callable[[], bool]) -> None:
    """Puts `part` in the place of the existing `root`; the old folder is removed."""
    if _exchange(part, root):
        return  # `part` is now the old folder, which the caller removes
    old = part.with_suffix(".old")
    lock = os.open(root, os.O_RDONLY)
    try:
        with suppress(OSError):  # held while the folder is between its names, so that nobody takes it for a leftover
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(root, old)
        try:
            _move(part, root, is_done)
        except OSError:
            os.rename(old, root)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        os.close(lock)


def _move(part: Path, root: Path, is_done: Callable[[], bool]) -> None:
    try:
        os.rename(part, root)
    except OSError:
        if not is_done():
            raise


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two folders in one step; False if the C library or the file system can't (Linux 3.15, ext4, XFS, …)."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    return renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0


@contextmanager
def _stale(left: Path, age: float) -> Iterator[bool]:
    """True if no living process holds the folder and it is older than `age` seconds; it is locked meanwhile."""
    lock = None
    try:
        fresh = left.stat().st_mtime > time.time() - age if age else False
        if not fresh:
            lock = os.open(left, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stale = not fresh
    except OSError:
        stale = False
    try:
        yield stale
    finally:
        if lock is not None:
            os.close(lock)
