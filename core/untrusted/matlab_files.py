"""Unpacked size of MATLAB files, checked before a reader unpacks them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from core.errors import UserError

_HEADER = 128
_COMPRESSED = 15
_STEP = 2**20


def check_unpacked_size(path: Path, most: int) -> None:
    """Raises `UserError` where the packed elements of a version-5 file unpack to more than `most` bytes together.

    SciPy's reader unpacks each element at once, to a thousand times its size if need be. Other files are left for the
    reader to refuse.
    """
    total = 0
    with path.open("rb") as file:
        order = {b"IM": "<", b"MI": ">"}.get(file.read(_HEADER)[-2:])
        while order is not None and len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            if kind != _COMPRESSED:
                file.seek(size, 1)
                continue
            unpacker = zlib.decompressobj()
            left = size
            while left > 0 and not unpacker.eof:
                packed = file.read(min(left, _STEP // 64))
                if not packed:
                    return
                left -= len(packed)
                while packed and total <= most:
                    try:
                        total += len(unpacker.decompress(packed, _STEP))
                    except zlib.error:
                        return
                    packed = unpacker.unconsumed_tail
                if total > most:
                    raise UserError(f"{path} unpacks to more than {most:,} bytes, the limit for a list of images")
            file.seek(left, 1)
