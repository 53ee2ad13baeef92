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

    known: dict[int, tuple[int, int]] = {}

    def is_leaf(value: Any) -> bool:
        return isinstance(value, torch.Size) or not isinstance(value, dict | list | tuple)

    def extent(value: Any, depth: int) -> tuple[int, int]:
        """Entries and levels of a container with those in it; one that is reached a million times is walked once."""
        found = known.get(id(value))
        if depth + (found[1] if found else 1) > MAX_DEPTH:
            raise UserError(
                f"{source} is nested more than {MAX_DEPTH} levels deep or contains itself; save only the state dict"
            )
        if found is None:
            below = dict.values(value) if isinstance(value, dict) else value
            inner = [extent(one, depth + 1) for one in below if not is_leaf(one)]
            size = dict.__len__(value) if isinstance(value, dict) else len(value)
            found = size + sum(entries for entries, _ in inner), 1 + max((levels for _, levels in inner), default=0)
            known[id(value)] = found
        return found

    def copy(value: Any) -> Any:
        if is_leaf(value):
            return leaf(value)
        if isinstance(value, dict):
            return {key: copy(below) for key, below in dict.items(value)}
        copied = [copy(below) for below in value]
        return tuple(copied) if isinstance(value, tuple) else copied

    if not is_leaf(document) and extent(document, 0)[0] > MAX_ENTRIES:
        raise UserError(f"{source} holds more than {MAX_ENTRIES:,} entries; save the weights alone")
    return copy(document)


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
