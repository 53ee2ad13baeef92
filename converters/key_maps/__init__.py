"""Names that libraries give the tensors of ResNets and ViTs: every module here with `KEY_MAPS` is discovered."""

from __future__ import annotations

import bisect
import importlib
import pkgutil
from collections.abc import Iterable

from torch import nn

from converters.key_maps.base import MASKED, ON_TOP, KeyMap
from core.errors import UserError

KEY_MAPS: tuple[KeyMap, ...] = tuple(
    key_map
    for module in sorted(module.name for module in pkgutil.iter_modules(__path__))
    for key_map in getattr(importlib.import_module(f"{__name__}.{module}"), "KEY_MAPS", ())
)
"""All key maps, sorted by module. Where several fit one network, the last is the most specific and decides."""


def find_networks(names: Iterable[str], source: str) -> dict[str, KeyMap]:
    """Prefix -> key map of every ResNet or ViT among tensor names; the prefix is empty or ends with a dot.

    Raises `UserError` for a network that cannot be converted.
    """
    names = list(names)
    ordered = sorted(names)

    def present(start: str) -> bool:
        place = bisect.bisect_left(ordered, start)
        return place < len(ordered) and ordered[place].startswith(start)

    found: dict[str, int] = {}
    for name in names:
        for index, key_map in enumerate(KEY_MAPS):
            prefix = _prefix(name, key_map.anchor_key)
            if prefix is None or not present(prefix + key_map.required_prefix):
                continue
            if key_map.refusal:
                raise UserError(
                    f"{source} holds {key_map.name} below {prefix!r}, which can't be converted: {key_map.refusal}"
                )
            found[prefix] = max(index, found.get(prefix, 0))
    return {prefix: KEY_MAPS[index] for prefix, index in found.items()}


def named_networks(model: nn.Module, names: Iterable[str]) -> dict[str, KeyMap]:
    """Prefix -> key map of every network that has all the names of timm's `model`."""
    own, given = list(model.state_dict()), set(names)
    starts = {prefix for name in given if (prefix := _prefix(f".{name}", f".{own[0]}")) is not None}
    starts = {start.removeprefix(".") for start in starts} | ({""} if own[0] in given else set())
    complete = [start for start in sorted(starts) if all(start + name in given for name in own)]
    return {start: KeyMap("timm's names", own[0], own[0], heads={**ON_TOP, **MASKED}) for start in complete}


def _prefix(name: str, ending: str) -> str | None:
    """The part of `name` before `ending`, if that ends at a dot; None where `name` does not end so."""
    prefix = name.removesuffix(ending)
    return prefix if prefix != name and (not prefix or prefix.endswith(".")) else None
