"""A study in YAML: a recipe, factors whose levels change its settings, seeds, and the evaluations of every network."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from core.errors import UserError
from core.files.value_digest import value_digest
from core.project import CONFIGS
from evaluate.suites.config import Evaluation

FOLDER = CONFIGS / "studies"
SEPARATOR = " · "
"""Between the levels in the name of an arm."""
UNTRAINED, PIXELS = "untrained", "pixels"
"""Arms that every study has beside its own: the first arm's network as initialised, and raw pixels."""


@dataclass(frozen=True)
class Arm:
    name: str
    """Levels of all factors, joined by `SEPARATOR`."""
    settings: tuple[str, ...]
    """Settings that the recipe gets, `key=value`."""
    baseline: str
    """Name of the arm that it is compared with: the level before it of the last factor; empty for the first one."""
    seeds: int
    """Trainings of it, with seeds 0 … seeds - 1."""

    @property
    def slug(self) -> str:
        """The name as part of a folder's."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


@dataclass(frozen=True)
class StudyConfig:
    question: str
    """What the study asks, in one sentence."""
    recipe: str
    """Recipe that the arms change: a name in configs/pretrain, or a YAML file."""
    factors: dict[str, dict[str, tuple[str, ...]]]
    """Levels by factor, and the settings of each level. An arm is a combination of levels; it is compared, seed by
    seed, with the arm of the level before it in the last factor, or of the level that `baselines` names."""
    evaluations: tuple[Evaluation, ...]
    """Evaluations of every network."""
    settings: tuple[str, ...] = ()
    """Settings of all arms."""
    seeds: int = 3
    """Trainings per arm, with seeds 0 … seeds - 1."""
    more_seeds: dict[str, int] = field(default_factory=dict)
    """Trainings per arm by level, for levels of any factor that get more of them."""
    baselines: dict[str, str] = field(default_factory=dict)
    """Levels of the last factor that are compared with another level than the one before them, or with `untrained`."""
    network: Literal["online", "target"] = "online"
    """Network that is evaluated."""

    def __post_init__(self) -> None:
        if not self.evaluations:
            raise ValueError("evaluations must hold at least one")
        if not self.factors or not all(self.factors.values()):
            raise ValueError("factors must hold at least one factor, and each of them at least one level")
        known = {*self._compared, UNTRAINED}
        if wrong := [level for pair in self.baselines.items() for level in pair if level not in known]:
            raise ValueError(f"baselines: {wrong[0]!r} is no level of the last factor ({', '.join(self._compared)})")
        levels = [level for factor in self.factors.values() for level in factor]
        if unknown := next((level for level in self.more_seeds if level not in levels), None):
            raise ValueError(f"more_seeds: {unknown!r} is no level of a factor ({', '.join(levels)})")
        if self.seeds < 1:
            raise ValueError(f"seeds must be 1 or more, not {self.seeds}")
        every = [*self.settings, *(text for arm in self.arms for text in arm.settings)]
        if wrong := [text for text in every if "=" not in text]:
            raise ValueError(f"settings must look like key=value, not {wrong[0]!r}")
        if wrong := [text for text in every if text.partition("=")[0] == "seed"]:
            raise ValueError(f"{wrong[0]!r}: the study sets the seed of each training itself")
        if reserved := next((level for level in levels if level in (UNTRAINED, PIXELS)), None):
            raise ValueError(f"a level can't be called {reserved!r}, which every study measures beside its arms")
        slugs = [arm.slug for arm in self.arms]
        if doubled := next((slug for slug in slugs if slugs.count(slug) > 1 or not slug), None):
            raise ValueError(f"two arms would share the folder {doubled!r}; name their levels differently")

    @property
    def _compared(self) -> list[str]:
        """Levels of the last factor."""
        return list(list(self.factors.values())[-1])

    @property
    def arms(self) -> list[Arm]:
        """All combinations of levels, the last factor varying fastest."""
        arms = []
        for levels in itertools.product(*self.factors.values()):
            last = self._compared
            before = self.baselines.get(levels[-1], last[max(0, last.index(levels[-1]) - 1)])
            baseline = "" if levels[-1] == before else SEPARATOR.join((*levels[:-1], before))
            baseline = UNTRAINED if before == UNTRAINED else baseline
            settings = itertools.chain.from_iterable(
                factor[level] for factor, level in zip(self.factors.values(), levels, strict=True)
            )
            seeds = max(self.seeds, *(self.more_seeds.get(level, 1) for level in levels))
            arms.append(Arm(SEPARATOR.join(levels), tuple(settings), baseline, seeds))
        return arms

    @property
    def recipe_file(self) -> Path:
        """File of the recipe. Raises `UserError` if there is none."""
        shipped = CONFIGS / "pretrain" / f"{self.recipe}.yaml"
        file = shipped if shipped.is_file() else Path(self.recipe)
        if not file.is_file():
            raise UserError(f"no recipe {self.recipe!r} in configs/pretrain; give its name or a YAML file")
        return file

    def recipe_digest(self) -> str:
        """sha256 (hex) of what the recipe's file sets; its comments and the order of keys don't matter."""
        from core.config import read_yaml

        return value_digest(read_yaml(self.recipe_file))


def open_study(name: str) -> StudyConfig:
    """Study by its name in configs/studies or by its file. Raises `UserError` for any other."""
    from core.config import load_config  # so late that `study.py --help` needs no torch

    file = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not file.is_file():
        known = sorted(each.stem for each in FOLDER.glob("*.yaml"))
        raise UserError(f"no study {name!r}; available: {', '.join(known)}, or a YAML file")
    return load_config(StudyConfig, file)
