"""Freed memory stays with the process, for programs that need as much of it again a moment later (glibc)."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of mallopt(3)


def disable_trimming() -> bool:
    """Lets malloc take all memory from the heap and never give any back; returns True if the C library supports it.

    A training step on the CPU frees each large tensor to the system by default and has the same pages zeroed for
    the next one, which costs a fifth of the step. The price: a process stays as large as it ever was.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # musl, macOS: their allocators have no such settings
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 * 2**20))
    done = [bool(mallopt(name, value)) for name, value in settings]
    return all(done)
