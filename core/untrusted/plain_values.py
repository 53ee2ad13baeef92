"""Copies untrusted objects into plain containers of bounded size and depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from core.errors import UserError

MAX_DEPTH = 64
"""Levels of containers within containers."""
MAX_ENTRIES = 1_000_000
"""Entries of all containers together, each counted as often as it is reached."""


def to_plain(document: Any, source: str, leaf: Callable[[Any], Any] = lambda value: value) -> Any:
    """Copy of `document` with new dictionaries, lists and tuples, and `leaf` applied to all other values.

    A dictionary from a pickle may hold itself, the same list a million times, or attributes in the place of its
    methods; the copy does not. Raises `UserError`, naming `source`, for a document that is nested too deeply or too
    large.
    """
    import torch  # here alone: configurations are checked by this file, and most commands read some before torch

    count = 0

    def copy(value: Any, depth: int) -> Any:
        nonlocal count
        if isinstance(value, torch.Size) or not isinstance(value, dict | list | tuple):
            return leaf(value)
        if depth == MAX_DEPTH:
            raise UserError(
                f"{source} is nested more than {MAX_DEPTH} levels deep or contains itself; save only the state dict"
            )
        count += dict.__len__(value) if isinstance(value, dict) else len(value)
        if count > MAX_ENTRIES:
            raise UserError(f"{source} holds more than {MAX_ENTRIES:,} entries; save the weights alone")
        if isinstance(value, dict):
            return {key: copy(below, depth + 1) for key, below in dict.items(value)}
        copied = [copy(below, depth + 1) for below in value]
        return tuple(copied) if isinstance(value, tuple) else copied

    return copy(document, 0)


def check_size(values: Mapping[str, Any], source: str, most: int) -> None:
    """Raises `UserError` where plain values would be more than `most` characters and entries once written out.

    A few lines of YAML with anchors stand for gigabytes, and for structures that hold themselves. Whole numbers beyond
    2⁵³ and floats that are not finite are refused too: no setting has a use for them, and JSON can't hold all of them.
    """
    waiting: list[tuple[str, Any]] = [("", values)]
    size = 0
    while waiting:
        path, value = waiting.pop()
        size += 1 + (len(value) if isinstance(value, str | bytes) else 0)
        if size > most:
            raise UserError(f"{source} writes out to more than {most:,} characters, or refers to itself; make it small")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{path} in {source} is {value}; give a finite number")
        if isinstance(value, int) and abs(value) > 2**53:
            raise UserError(f"{path} in {source} is a number beyond 2^53; give a smaller one")
        if isinstance(value, dict):
            size += len(value)
            waiting += [(f"{path}.{key}"[-200:].lstrip("."), below) for key, below in value.items()]
        elif isinstance(value, list | tuple | set):
            size += len(value)
            waiting += [(path, below) for below in value]
