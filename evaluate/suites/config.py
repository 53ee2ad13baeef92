"""A suite: a named list of evaluations in YAML, and the places of the data that they need."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import UserError
from core.project import CONFIGS
from evaluate.common.description import Description
from evaluate.common.registry import descriptions

FOLDER = CONFIGS / "suites"
_PLACE = re.compile(r"\{(?!split\})(\w+)\}")
"""Placeholder of a folder in an evaluation's data; `{split}` is that of shards."""


@dataclass(frozen=True)
class Evaluation:
    run: str
    """Front door, evaluate/RUN.py; of a kind without one of its own, the kind."""
    protocol: str
    """A name in configs/evaluate."""
    data: str = ""
    """Value of `--data` (`--sets` of transfer_sets): `folder:{imagenet}`, `coco:{coco}`, `{ade20k}`, …; empty: the
    protocol's own data."""
    settings: tuple[str, ...] = ()
    """`key=value` settings that depart from the protocol, which appear in the result's name, or that name a place, such
    as `shift_root={shifts}`."""
    arguments: tuple[str, ...] = ()
    """Further arguments of the entry point, e.g. `--draw`, `6`."""

    def __post_init__(self) -> None:
        if self.run not in runs():
            raise ValueError(f"run must be one of {', '.join(runs())}, not {self.run!r}")
        if wrong := [setting for setting in self.settings if "=" not in setting]:
            raise ValueError(f"settings must look like key=value, not {wrong[0]!r}")
        if self.arguments and not self.arguments[0].startswith("--"):
            raise ValueError(f"arguments must start with an option such as --draw, not {self.arguments[0]!r}")

    @property
    def description(self) -> Description:
        """The kind of evaluation that it runs."""
        return runs()[self.run]

    def missing_roots(self, places: Mapping[str, str]) -> list[str]:
        """Data sets that it asks for and that have no place."""
        return [name for name in self.roots if name not in places]

    @property
    def roots(self) -> tuple[str, ...]:
        """Names of the data sets on the user's disk that it asks for."""
        return tuple(dict.fromkeys(name for text in (self.data, *self.settings) for name in _PLACE.findall(text)))

    def resolve(self, places: Mapping[str, str]) -> Evaluation:
        """The evaluation with its data's places filled in."""
        filled = copy.copy(self)  # not checked again: the place itself may hold braces
        data, *settings = (
            _PLACE.sub(lambda found: places.get(found[1], found[0]), text) for text in (self.data, *self.settings)
        )
        object.__setattr__(filled, "data", data)
        object.__setattr__(filled, "settings", tuple(settings))
        return filled


def runs() -> dict[str, Description]:
    """Kinds of evaluation by what a suite calls them: the front door, or the kind where it has none of its own."""
    return {each.kind if each.door == "probe" else each.door: each for each in descriptions().values()}


@dataclass(frozen=True)
class SuiteConfig:
    evaluations: tuple[Evaluation, ...]
    """Evaluations, in this order."""
    places: dict[str, str] = field(default_factory=dict)
    """Folders of the data sets that the evaluations name (`imagenet` for `{imagenet}`), unless the command line gives
    another."""

    def __post_init__(self) -> None:
        if not self.evaluations:
            raise ValueError("evaluations must hold at least one")
        if unknown := sorted(set(self.places) - set(self.roots)):
            known = ", ".join(self.roots) or "none"
            raise ValueError(f"places: no evaluation has data in {{{unknown[0]}}}; those named are: {known}")

    @property
    def roots(self) -> tuple[str, ...]:
        """Names of the data sets on the user's disk that the evaluations ask for."""
        return tuple(dict.fromkeys(name for each in self.evaluations for name in each.roots))


def shipped_roots() -> tuple[str, ...]:
    """Names of the data sets that the suites in configs/suites ask for, for `--help`: their YAML isn't parsed."""
    texts = (file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.yaml")))
    lines = (line.partition("#")[0] for text in texts for line in text.splitlines())
    return tuple(dict.fromkeys(name for line in lines if "data" in line for name in _PLACE.findall(line)))


def open_suite(name: str) -> SuiteConfig:
    """Suite by its name in configs/suites or by its file. Raises `UserError` for any other."""
    from core.config import load_config  # so late that `suite.py --help` needs no torch

    if name.endswith((".yaml", ".yml")):
        return load_config(SuiteConfig, Path(name))
    known = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    if name not in known:
        raise UserError(f"no suite {name!r}; there are {', '.join(known)}, or give a YAML file")
    return load_config(SuiteConfig, FOLDER / f"{name}.yaml")
