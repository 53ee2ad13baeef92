"""Digests of data sets: by content if that is cheap, else by sizes and times of modification."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from core.errors import UserError

CONTENT_BYTES = 2**30
"""Sets of at most this many bytes are read: about a second from memory, and ten from a disk."""


def digest_below(root: Path, files: Iterable[Path]) -> str:
    """`files_digest` of files named by their place below `root`."""
    return files_digest((os.fsencode(file.relative_to(root).as_posix()), file) for file in files)


def files_digest(files: Iterable[tuple[bytes, Path]], more: bytes = b"") -> str:
    """Digest of files in their order, each given by its name within the set and its path, and of `more`.

    64 hexadecimal digits (SHA-256), then `:content` if the files were read (the same wherever they lie), or `:stat` if
    they are too large for that: then name, size and `mtime_ns` of each count. Files that don't exist count as such.
    Raises `UserError` for a file that can't be read.
    """
    listed = [(name, path, _stat(path)) for name, path in files]
    by_content = sum(stat[0] for _, _, stat in listed if stat) <= CONTENT_BYTES
    digest = hashlib.sha256(hashlib.sha256(more).digest())
    for name, path, stat in listed:
        digest.update(name + b"\0")
        if stat is None:
            digest.update(b"absent")
        elif by_content:
            digest.update(_content(path))
        else:
            digest.update(f"{stat[0]} {stat[1]}".encode())
        digest.update(b"\n")
    return f"{digest.hexdigest()}:{'content' if by_content else 'stat'}"


def part_digest(whole: str, part: bytes) -> str:
    """Digest of a part of a set with digest `whole`; `part` identifies the part within it."""
    _, colon, kind = whole.partition(":")
    return hashlib.sha256(whole.encode() + part).hexdigest() + colon + kind


def _stat(path: Path) -> tuple[int, int] | None:
    """Size in bytes and time of modification in ns; None for what is missing or not a regular file."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    return (found.st_size, found.st_mtime_ns) if path.is_file() else None


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"can't read {path}: {error.strerror}; fix its permissions or the disk, or give another folder")
