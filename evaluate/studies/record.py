"""Record of a finished study, records/STUDY.json: every number with its digests, versions, machine and wall time."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files.atomic_file import write_atomically
from core.project import ROOT
from evaluate.studies.config import PIXELS, SEPARATOR, UNTRAINED
from evaluate.studies.statistics import Difference, paired_difference, spread

FORMAT = "ssl-transfer/record/1"
FOLDER = ROOT / "records"


@dataclass(frozen=True)
class Measured:
    """One evaluation of one network."""

    arm: str
    """Name of the arm, `untrained` or `pixels`."""
    seed: int
    """Seed of the training and of the evaluation."""
    protocol: str
    """The protocol's full name."""
    version: int
    """The protocol's version."""
    kind: str
    """Kind of the evaluation."""
    data: str
    """Digests of the data, by part."""
    metrics: dict[str, float]
    """Headline metrics, each in its unit."""
    backbone_sha256: str
    """Digest of the weights."""
    device: str
    """Device of the evaluation."""
    wall_seconds: float
    """Wall time of the evaluation."""


@dataclass(frozen=True)
class Trained:
    """One training."""

    arm: str
    """Name of the arm."""
    seed: int
    """Seed."""
    settings: tuple[str, ...]
    """Settings beyond the recipe."""
    last: dict[str, float]
    """The last line of its metrics."""
    images_per_second: float
    """Mean speed while it trained."""
    images: int = 0
    """Images seen, each as often as it was drawn; 0 in older records."""
    pixels: int = 0
    """Pixels of all views seen: images × Σ views × side²."""
    stability: dict[str, float] = field(default_factory=dict)
    """Course of the training (`trainings.stability_of`)."""
    predictor: tuple[dict[str, float], ...] = ()
    """Losses with the run's own and with fitted predictors by epoch: `epoch`, and per view type `VIEW/trained`,
    `VIEW/alone` and `VIEW/together` (pretrain/monitoring/predictor_fit.py)."""
    seconds: float = 0.0
    """Time of its steps; 0 in older records."""
    git_revision: str = ""
    """Revision of the project that trained; empty in older records."""


@dataclass(frozen=True)
class Record:
    study: str
    """Name of the study, and of the file."""
    question: str
    """The study's question."""
    recipe: str
    """Name of the recipe."""
    recipe_sha256: str
    """Digest of what the recipe sets (`StudyConfig.recipe_digest`)."""
    settings: tuple[str, ...]
    """Settings of all arms."""
    baselines: dict[str, str]
    """Arms in order, and what each is compared with; empty for a baseline."""
    date: str
    """Day of the record, UTC."""
    libraries: dict[str, str]
    """Versions; several where they changed between evaluations."""
    git_revision: str
    """Revisions of the project that evaluated, in order."""
    device: str
    """Device of the evaluations."""
    trained: tuple[Trained, ...]
    """All trainings."""
    measured: tuple[Measured, ...]
    """All evaluations."""

    def __post_init__(self) -> None:
        """Refuses what can't stand in one ranking. Raises ValueError."""
        for protocol in self.protocols():
            rows = [each for each in self.measured if each.protocol == protocol]
            if len(kept := {(each.version, each.data) for each in rows}) > 1:
                raise ValueError(f"{protocol} was measured on different data or in different versions: {sorted(kept)}")
            if len(devices := {each.device for each in rows}) > 1:
                raise ValueError(f"{protocol} was measured on different devices: {', '.join(sorted(devices))}")
            keys = [(each.arm, each.seed) for each in rows]
            if doubled := next((key for key in keys if keys.count(key) > 1), None):
                raise ValueError(f"{protocol} has two results of {doubled[0]}, seed {doubled[1]}")
        known = {*self.baselines, UNTRAINED, PIXELS}
        if unknown := next((each.arm for each in self.measured if each.arm not in known), None):
            raise ValueError(f"{unknown!r} is not an arm of the study")

    def protocols(self) -> list[str]:
        """Protocols in order."""
        return list(dict.fromkeys(each.protocol for each in self.measured))

    def values(self, arm: str, protocol: str, metric: str) -> dict[int, float]:
        """The metric by seed."""
        return {
            each.seed: each.metrics[metric]
            for each in self.measured
            if each.arm == arm and each.protocol == protocol and metric in each.metrics
        }

    def mean_and_spread(self, arm: str, protocol: str, metric: str) -> tuple[float, float, int]:
        """Mean, standard deviation over seeds, and their number; NaN where nothing was measured."""
        values = list(self.values(arm, protocol, metric).values())
        return (*spread(values), len(values)) if values else (math.nan, math.nan, 0)

    def difference(self, arm: str, protocol: str, metric: str) -> Difference | None:
        """The arm minus its baseline over their common seeds; None for a baseline or without a common seed."""
        pairs = self._pairs(arm, protocol, metric)
        return (
            paired_difference([own for own, _ in pairs.values()], [base for _, base in pairs.values()])
            if pairs
            else None
        )

    def _pairs(self, arm: str, protocol: str, metric: str) -> dict[int, tuple[float, float]]:
        """The arm's value and its baseline's by common seed, in order; empty for a baseline."""
        baseline = self.values(self.baselines[arm], protocol, metric) if self.baselines.get(arm) else {}
        own = self.values(arm, protocol, metric)
        return {seed: (own[seed], baseline[seed]) for seed in sorted(own.keys() & baseline.keys())}

    def pooled_differences(self, protocol: str, metric: str) -> dict[str, Difference]:
        """By level of the last factor: the mean over its arms of arm minus baseline, seed by seed.

        Only levels that several arms share, each compared with the same other level, and only over the seeds that all
        of these arms have, at least two: a seed that only some have would give these more weight. Arms of one seed
        share their images and their draws, so that they count as one.
        """
        arms: dict[tuple[str, str], list[str]] = {}
        for arm, against in self.baselines.items():
            (others, _, level), (same, _, before) = arm.rpartition(SEPARATOR), against.rpartition(SEPARATOR)
            if others and others == same:
                arms.setdefault((level, before), []).append(arm)
        found = {}
        for (level, _), group in arms.items():
            by_arm = [self._pairs(arm, protocol, metric) for arm in group]
            if len(by_arm) < 2 or len(seeds := sorted(set.intersection(*map(set, by_arm)))) < 2:
                continue
            of_seeds = [[pairs[seed] for pairs in by_arm] for seed in seeds]
            own, base = ([sum(pair[side] for pair in pairs) / len(pairs) for pairs in of_seeds] for side in (0, 1))
            found[level] = paired_difference(own, base)
        return found


def arms_with_references(record: Record) -> list[str]:
    """The study's arms, then its untrained network and raw pixels where they were measured."""
    measured = {each.arm for each in record.measured}
    return [*record.baselines, *(each for each in (UNTRAINED, PIXELS) if each in measured)]


def write_record(record: Record, folder: Path = FOLDER) -> Path:
    """Writes records/STUDY.json."""
    file = folder / f"{record.study}.json"
    text = json.dumps({"format": FORMAT, **dataclasses.asdict(record)}, indent=1, ensure_ascii=False) + "\n"
    folder.mkdir(exist_ok=True)
    write_atomically(file, lambda partial: partial.write_text(text, encoding="utf-8"))
    return file


def read_record(file: Path) -> Record:
    """A record. Raises `UserError` for another file."""
    from core.config import from_dict

    try:
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if document.pop("format") != FORMAT:
            raise ValueError("another format")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{file} is not a record of a study ({error}); move it away") from None
    return from_dict(Record, document, str(file))
