"""Headers of JPEG files, as far as they say whether all decoders give the same picture."""

from __future__ import annotations

_START, _BASELINE, _SCAN, _ADOBE = 0xD8, 0xC0, 0xDA, 0xEE  # markers, behind a byte 0xFF
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_END = b"\xff\xd9"
_LUMA = ((1, 1), (2, 1), (1, 2), (2, 2), (4, 1))
"""Samples of brightness for one of colour, across and down."""


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a baseline JPEG of 8-bit YCbCr in one scan; None for every other file.

    Not plain are progressive, arithmetic and lossless coding, greyscale, RGB and CMYK, unusual subsampling, and files
    without a marker of their end, which may be truncated. Damage in the coded pixels is not looked for.
    """
    if data[:2] != bytes((0xFF, _START)):
        return None
    place = 2
    size: tuple[int, int] | None = None
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fill bytes may precede a marker
            place += 1
            continue
        body = data[place + 4 : place + 2 + int.from_bytes(data[place + 2 : place + 4])]
        if marker == _SCAN:
            whole = body[:1] == b"\x03" and data.rfind(_END, place) > place
            return size if whole else None
        if marker in _FRAMES:
            if marker != _BASELINE or size is not None or not _is_colour(body):
                return None
            size = int.from_bytes(body[3:5]), int.from_bytes(body[1:3])
        elif marker == _ADOBE and body[:5] == b"Adobe" and body[11:12] != b"\x01":
            return None
        place += 4 + len(body)
    return None


def _is_colour(frame: bytes) -> bool:
    """True for the header of a frame of 8-bit YCbCr, whose height is known and whose colours are sampled together."""
    if len(frame) != 15 or frame[0] != 8 or frame[5] != 3 or b"\0\0" in (frame[1:3], frame[3:5]):
        return False
    sampling = [(factors >> 4, factors & 15) for factors in frame[7::3]]
    return frame[6::3] != b"RGB" and sampling[0] in _LUMA and sampling[1:] == [(1, 1)] * 2
