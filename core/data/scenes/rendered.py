"""Rendered scenes kept in the cache folder: drawing one takes longer than a small network's step on it."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError
from core.files.cache_folder import cache_folder

LARGEST = 2**28
"""Bytes of the largest file kept; sets that need more are rendered anew each time."""
_CHECK = 4


class RenderedPlane:
    """One array per scene (its image, its class map, …) in a file of equal records: CRC-32, then the values.

    Processes fill it together, each scene when it is first asked for. A record that was never or not wholly written
    fails its check and counts as missing. Without room or permission nothing is kept.
    """

    def __init__(self, name: str, count: int, shape: tuple[int, ...], kind: type[np.generic]) -> None:
        """`name`: of the file, different for different scenes; `kind`: type of the values."""
        self._shape, self._kind = shape, np.dtype(kind)
        self._record = _CHECK + int(np.prod(shape)) * self._kind.itemsize
        self._file = _open(name) if count * self._record <= LARGEST else -1

    def get(self, index: int) -> NDArray[Any] | None:
        """The array of scene `index`; None if it isn't kept."""
        if self._file < 0:
            return None
        record = os.pread(self._file, self._record, index * self._record)
        values = record[_CHECK:]
        if len(record) < self._record or record[:_CHECK] != _check(values):
            return None
        return np.frombuffer(bytearray(values), self._kind).reshape(self._shape)

    def put(self, index: int, values: NDArray[Any]) -> None:
        """Keeps the array of scene `index`."""
        if self._file < 0:
            return
        content = np.ascontiguousarray(values, self._kind).tobytes()
        try:
            os.pwrite(self._file, _check(content) + content, index * self._record)
        except OSError:  # a full disk: the next one to ask renders it again
            self._file = -1


def _check(values: bytes) -> bytes:
    return zlib.crc32(values, 1).to_bytes(_CHECK, "little")


def _open(name: str) -> int:
    """Descriptor of the file, which is made if need be; −1 where the cache folder can't be written to."""
    try:
        folder: Path = cache_folder() / "rendered"
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except (OSError, UserError):
        return -1
