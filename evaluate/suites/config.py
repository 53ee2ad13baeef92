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
DATA_ROOTS = ("imagenet", "coco", "ade20k", "voc", "cityscapes")
"""Data sets on the user's disk that a suite can ask for."""
_PLACE = re.compile(r"\{(\w+)\}")


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
    """`key=value` settings that depart from the protocol; they appear in the result's name."""
    arguments: tuple[str, ...] = ()
    """Further arguments of the entry point, e.g. `--draw`, `6`."""

    def __post_init__(self) -> None:
        if self.run not in runs():
            raise ValueError(f"run must be one of {', '.join(runs())}, not {self.run!r}")
        if wrong := [setting for setting in self.settings if "=" not in setting]:
            raise ValueError(f"settings must look like key=value, not {wrong[0]!r}")
        if self.arguments and not self.arguments[0].startswith("--"):
            raise ValueError(f"arguments must start with an option such as --draw, not {self.arguments[0]!r}")
        if unknown := sorted(set(_PLACE.findall(self.data)) - {*DATA_ROOTS, "split"}):
            raise ValueError(f"data: {{{unknown[0]}}} must be one of {', '.join(DATA_ROOTS)}")

    @property
    def description(self) -> Description:
        """The kind of evaluation that it runs."""
        return runs()[self.run]

    def missing_roots(self, places: Mapping[str, str]) -> list[str]:
        """Data sets that it asks for and that have no place."""
        return [name for name in _PLACE.findall(self.data) if name in DATA_ROOTS and name not in places]

    def resolve(self, places: Mapping[str, str]) -> Evaluation:
        """The evaluation with its data's places filled in."""
        filled = copy.copy(self)  # not checked again: the place itself may hold braces
        data = _PLACE.sub(lambda found: places.get(found[1], found[0]), self.data)
        object.__setattr__(filled, "data", data)
        return filled


def runs() -> dict[str, Description]:
    """Kinds of evaluation by what a suite calls them: the front door, or the kind where it has none of its own."""
    return {each.kind if each.door == "probe" else each.door: each for each in descriptions().values()}


@dataclass(frozen=True)
class SuiteConfig:
    evaluations: tuple[Evaluation, ...]
    """Evaluations, in this order."""
    places: dict[str, str] = field(default_factory=dict)
    """Folders of data sets (imagenet, coco, ade20k, voc, cityscapes) without one on the command line."""

    def __post_init__(self) -> None:
        if not self.evaluations:
            raise ValueError("evaluations must hold at least one")
        if unknown := sorted(set(self.places) - set(DATA_ROOTS)):
            raise ValueError(f"places: {unknown[0]!r} must be one of {', '.join(DATA_ROOTS)}")


def open_suite(name: str) -> SuiteConfig:
    """Suite by its name in configs/suites or by its file. Raises `UserError` for any other."""
    from core.config import load_config  # so late that `suite.py --help` needs no torch

    if name.endswith((".yaml", ".yml")):
        return load_config(SuiteConfig, Path(name))
    known = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    if name not in known:
        raise UserError(f"no suite {name!r}; there are {', '.join(known)}, or give a YAML file")
    return load_config(SuiteConfig, FOLDER / f"{name}.yaml")
