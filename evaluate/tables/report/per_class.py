"""Scores of each class, several backbones side by side."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluate.common.metrics import Metric
from evaluate.tables.report.charts import Bars
from evaluate.tables.report.grouping import Group, Measured

_MOST_CLASSES = 20
_Scores = Mapping[str, float | None]


@dataclass(frozen=True)
class PerClass:
    """One chart."""

    metric: Metric
    """Metric of each class."""
    names: tuple[str, ...]
    """The classes shown."""
    groups: tuple[Bars, ...]
    """The backbones, by row; means and whiskers of one standard deviation over what a cell's ± is over."""
    total: int
    """Total number of classes. If more than shown, the classes with the largest spread are shown."""
    missing: tuple[int, ...]
    """Rows that were measured but whose results have no scores of classes."""


def per_class(group: Group) -> list[PerClass]:
    """The charts of one protocol, one for each kind of score that at least one result has."""
    charts = []
    for metric in group.members[0].result.description.class_metrics:
        found: dict[int, dict[str, list[_Scores]]] = {}
        for member in group.members:
            if scores := _scores(member, metric.key):
                network = member.result.document["checkpoint"]["backbone_sha256"]
                found.setdefault(member.row, {}).setdefault(network, []).append(scores)
        if not found:
            continue
        runs = {row: _networks(list(networks.values())) for row, networks in found.items()}
        names = list(dict.fromkeys(name for scores in runs.values() for one in scores for name in one))
        means = {row: [_mean([one.get(name) for one in scores]) for name in names] for row, scores in runs.items()}
        spreads = {row: [_spread([one.get(name) for one in scores]) for name in names] for row, scores in runs.items()}
        kept = _most_different(list(means.values()), len(names))
        bars = tuple(Bars(row, [means[row][i] for i in kept], [spreads[row][i] for i in kept]) for row in sorted(runs))
        missing = tuple(sorted({member.row for member in group.members} - runs.keys()))
        charts.append(PerClass(metric, tuple(names[i] for i in kept), bars, len(names), missing))
    return charts


def _scores(member: Measured, key: str) -> Mapping[str, float | None]:
    found = member.result.document["metrics"].get(key)
    if not isinstance(found, Mapping):
        return {}
    return {
        str(name): float(value) if isinstance(value, int | float) and math.isfinite(value) else None
        for name, value in found.items()
    }


def _networks(runs: Sequence[Sequence[_Scores]]) -> Sequence[_Scores]:
    """The mean of each network's runs; of a single network its runs."""
    if len(runs) == 1:
        return runs[0]
    names = list(dict.fromkeys(name for scores in runs for one in scores for name in one))
    return [{name: _mean([one.get(name) for one in scores]) for name in names} for scores in runs]


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


def _spread(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.stdev(there) if len(there) > 1 else None


def _most_different(means: Sequence[Sequence[float | None]], count: int) -> list[int]:
    """Numbers of the classes to show, ascending: those with the largest range over backbones, ties by order."""

    def spread(number: int) -> float:
        there = [values[number] for values in means if values[number] is not None]
        return max(there) - min(there) if there else 0.0  # type: ignore[type-var,operator]

    return sorted(sorted(range(count), key=lambda number: -spread(number))[:_MOST_CLASSES])
