"""Folders that appear whole or not at all, whoever else is writing the same one."""

from __future__ import annotations

import fcntl
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


@contextmanager
def whole_folder(root: Path, is_done: Callable[[], bool]) -> Iterator[Path]:
    """Yields an empty folder beside `root` that takes its place, and that of what was there, when the block ends well.

    Where `is_done()` says that another process was quicker, its folder stays. After an exception all is as it was.
    What a killed process left unfinished of the same folder is removed.

    Raises:
        UserError: if no folder can be made there.
    """
    part = root.with_name(f".{root.name}.{uuid.uuid4().hex}.part")
    old = part.with_suffix(".old")
    for left in root.parent.glob(f".{root.name}.*.part"):
        _remove_if_stale(left)
    try:
        part.mkdir(parents=True)
        lock = os.open(part, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"can't make a folder in {root.parent} ({error.strerror}): choose another place") from error
    try:
        with suppress(OSError):  # a file system without locks: then nobody removes what isn't theirs
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield part
        if is_done():
            return
        if root.exists():
            os.rename(root, old)
        try:
            os.rename(part, root)
        except OSError:
            if not is_done():
                if old.exists():
                    os.rename(old, root)
                raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        os.close(lock)


def _remove_if_stale(left: Path) -> None:
    """Removes a folder that no living process holds; one just made may be about to be locked."""
    try:
        if left.stat().st_mtime > time.time() - _JUST_MADE:
            return
        lock = os.open(left, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        shutil.rmtree(left, ignore_errors=True)
    finally:
        os.close(lock)
