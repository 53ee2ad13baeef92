"""Folders that appear whole or not at all, whoever else is writing the same one."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import UserError


@contextmanager
def whole_folder(root: Path, is_done: Callable[[], bool]) -> Iterator[Path]:
    """Yields an empty folder beside `root` that takes its place, and that of what was there, when the block ends well.

    Where `is_done()` says that another process was quicker, its folder stays. After an exception all is as it was.

    Raises:
        UserError: if no folder can be made there.
    """
    part = root.with_name(f".{root.name}.{uuid.uuid4().hex}.part")
    old = part.with_suffix(".old")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"can't make a folder in {root.parent} ({error.strerror}): choose another place") from error
    try:
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
