"""Writers of greyscale and palette files of 1 to 8 bits per pixel, by the formats' specifications, without Pillow."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np


def packed(numbers: np.ndarray, bits: int) -> list[bytes]:
    """Rows of numbers, most significant bits first."""
    shifts = np.arange(bits - 1, -1, -1)
    return [np.packbits((row[:, None] >> shifts) & 1).tobytes() for row in numbers]


def write_png(file: Path, numbers: np.ndarray, bits: int, colour: int = 0) -> None:
    """A PNG by its specification: greyscale (`colour` 0) or palette (3) of `bits` bits per pixel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = numbers.shape
    pixels = b"".join(b"\0" + row for row in packed(numbers, bits))
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))]
    if colour == 3:
        parts.append(chunk(b"PLTE", bytes(value % 251 for value in range(3 * 2**bits))))
    parts += [chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b"")]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def write_tiff(file: Path, numbers: np.ndarray, bits: int, white_is_zero: bool) -> None:
    """A TIFF by its specification: one strip of greyscale."""
    height, width = numbers.shape
    pixels = b"".join(packed(numbers, bits))
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: int(not white_is_zero), 273: 8, 277: 1, 278: height,
            279: len(pixels)}  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()
    )
    pixels += b"\0" * (len(pixels) % 2)
    file.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + b"\0" * 4)
