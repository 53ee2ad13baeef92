"""Facts about a protocol: what its source says, where, and where ours departs; configs/evaluate/facts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import load_config
from core.errors import UserError
from core.project import CONFIGS

FOLDER = CONFIGS / "evaluate" / "facts"
SAME = "same"
SCHEDULE = "schedule"
"""Key of the learning rate at ten steps, `{step: rate}` (probes: its share of the peak). Engines that count steps from
the first to the last differ by one step in the whole."""
OUR_CHOICE = "our choice"
_SOURCE = re.compile(
    rf"{OUR_CHOICE}"
    r"|[\w.-]+/[\w.-]+@[0-9a-f]{7,40}: \S.*"  # a file of a repository at a commit
    r"|[\w.-]+/[\w.-]+, issue \d+"
    r"|arXiv \d{4}\.\d{4,5}, (table|section|appendix) \S.*"
)


@dataclass(frozen=True)
class Fact:
    """One setting of a protocol's source."""

    key: str
    """Setting as resolved for the engine that runs it: `SOLVER.BASE_LR`, `model.decode_head.channels`, `rates`, …"""
    value: Any
    """Value in the source."""
    source: str = ""
    """Name of one of the sheet's `sources`."""
    ours: Any = SAME
    """Value in our protocol where it departs; `same` where it doesn't."""
    why: str = ""
    """Reason for the departure."""

    @property
    def departs(self) -> bool:
        """True if our value is another one."""
        return bool(self.ours != SAME)

    @property
    def expected(self) -> Any:
        """Value that our protocol must resolve to."""
        return self.ours if self.departs else self.value


@dataclass(frozen=True)
class Departure:
    """A difference that is no single setting."""

    text: str
    """There and here, in one sentence."""
    source: str
    """Name of one of the sheet's `sources`."""


@dataclass(frozen=True)
class FactSheet:
    """All facts about one protocol."""

    sources: dict[str, str]
    """By name: `owner/repository@commit: file`, `owner/repository, issue N`, `arXiv NUMBER, table N`, `our choice`."""
    facts: tuple[Fact, ...]
    """Settings, in the order in which they are shown."""
    backbone: str
    """timm's name of a network that the protocol is for, with which its settings are resolved."""
    processes: int = 1
    """Processes (GPUs) of the source."""
    departures: tuple[Departure, ...] = ()
    """Further differences."""

    def __post_init__(self) -> None:
        for name, source in self.sources.items():
            if not _SOURCE.fullmatch(source):
                raise ValueError(
                    f"sources.{name} must be owner/repository@commit: file, owner/repository, issue N, arXiv NUMBER, "
                    f"table N, or {OUR_CHOICE}, not {source!r}"
                )
        for fact in self.facts:
            if not fact.source:
                raise ValueError(f"facts: {fact.key} has no source; name one of {', '.join(self.sources)}")
            if fact.departs and not fact.why:
                raise ValueError(f"facts: {fact.key} departs from its source without a reason (why)")
        named = [fact.source for fact in self.facts] + [each.source for each in self.departures]
        for source in named:
            if source not in self.sources:
                raise ValueError(f"source {source!r} is not among the sources: {', '.join(self.sources)}")
        keys = [fact.key for fact in self.facts]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"facts: {twice[0]} is given twice")

    @property
    def departs(self) -> bool:
        """True if our protocol differs from its source in any way."""
        return bool(self.departures) or any(fact.departs for fact in self.facts)

    def differences(self, resolved: Mapping[str, Any]) -> list[str]:
        """Sentences about facts that a protocol's `resolved` settings contradict; empty if it agrees with all."""
        found = []
        for fact in self.facts:
            if fact.key not in resolved:
                found.append(f"{fact.key} is not among the resolved settings")
            elif not agree(resolved[fact.key], fact.expected, 2e-3 if fact.key == SCHEDULE else 1e-6):
                found.append(f"{fact.key} is {resolved[fact.key]!r}, not {fact.expected!r} ({fact.source})")
        return found


def agree(ours: Any, theirs: Any, tolerance: float = 1e-6) -> bool:
    """Equal values; numbers within `tolerance` of each other, relative to the larger; tuples are lists."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return ours.keys() == theirs.keys() and all(agree(ours[key], theirs[key], tolerance) for key in ours)
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(agree(*pair, tolerance) for pair in zip(ours, theirs, strict=True))
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return ours is theirs
    if isinstance(ours, int | float) and isinstance(theirs, int | float):
        return abs(ours - theirs) <= tolerance * max(abs(ours), abs(theirs))
    return bool(ours == theirs)


def read_facts(name: str, folder: Path = FOLDER) -> FactSheet:
    """Facts about the protocol `name`. Raises `UserError` if there is no sheet, or a faulty one."""
    file = folder / f"{name}.yaml"
    if not file.is_file():
        raise UserError(f"no facts about {name}: {file} is missing")
    return load_config(FactSheet, file)
