"""The transfer table: rows are backbones, columns a protocol's metric on one state of the data; seeds share a cell."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import UserError
from evaluate.common.metrics import Metric
from evaluate.common.protocol import Noise, current_version, kind_of_protocol, noise_of
from evaluate.common.registry import descriptions, find_description
from evaluate.tables.published import Published
from evaluate.tables.results import StoredResult, baseline_of, data_of, row_of, run_of, short_row_of

UNTRAINED = "random initialisation"
"""Row of published numbers of an untrained network."""
_BASELINES = ("pixels", "random", "")
"""Order of our rows."""


class _Key(NamedTuple):
    """Identity of a column."""

    kind: str
    protocol: str
    """The protocol's full name."""
    version: int
    """The protocol's version."""
    metric: str
    """The metric's key."""
    data: str
    """As in `Column`."""


@dataclass(frozen=True)
class Column:
    protocol: str
    """The protocol's full name, with ` (modified: …)` where it was changed."""
    metric: Metric
    """Metric of its numbers."""
    title: str
    """Display name, different from that of every other column."""
    data: str
    """The first digits of the data's digests; empty where there are published numbers only."""
    scaled_down: bool
    """Made for small machines: no paper has numbers of it."""
    version: int = 1
    """The protocol's version."""
    superseded: bool = False
    """The protocol has another version now, which published numbers are compared with."""
    noise: Noise | None = None
    """Noise of the metric under the protocol; None: not measured."""

    @property
    def name(self) -> str:
        """The protocol's full name, with the version from 2 on and where it is superseded."""
        shown = self.version > 1 or self.superseded
        return f"{self.protocol}, version {self.version}" if shown else self.protocol

    @property
    def modified(self) -> bool:
        """Settings of the protocol were changed."""
        return " (modified: " in self.protocol


@dataclass(frozen=True)
class Cell:
    values: tuple[float, ...]
    """One of each run, in the metric's unit."""
    seeds: tuple[int, ...]
    """The runs' seeds; empty in a published row."""
    paths: tuple[Path, ...]
    """The runs' result.json; empty in a published row."""
    published: Published | None
    """The number itself in a published row; in a row of ours, the number that was published for the same."""
    networks: tuple[str, ...] = ()
    """For each run the digest of its backbone's weights; empty: all are of one network."""
    seed_matters: bool = True
    """True if the result depends on the seed for fixed weights."""
    within_noise: bool = False
    """Not the best of its column, but behind it by less than twice the protocol's noise."""

    @property
    def network_means(self) -> tuple[float, ...]:
        """The mean over its runs of each network."""
        networks = self.networks or ("",) * len(self.values)
        return tuple(
            statistics.fmean(value for value, one in zip(self.values, networks, strict=True) if one == network)
            for network in dict.fromkeys(networks)
        )

    @property
    def mean(self) -> float:
        """Over networks, each of which counts once however many runs measured it."""
        return statistics.fmean(self.network_means)

    @property
    def counted(self) -> tuple[int, str]:
        """Number of networks or, for a single network, of runs over which `std` is taken.

        Runs of one network are called seeds where these differ. Runs that agree because nothing is drawn are one.
        """
        networks = len(self.network_means)
        if networks > 1:
            return networks, "networks"
        if not self.seed_matters and len(set(self.values)) == 1:
            return 1, "measurement"
        return len(self.values), "seeds" if len(set(self.seeds)) == len(self.values) else "runs"

    @property
    def std(self) -> float | None:
        """Standard deviation over what is `counted` (n − 1 in the denominator); None for a single one."""
        count, kind = self.counted
        if count < 2:
            return None
        return statistics.stdev(self.network_means if kind == "networks" else self.values)

    @property
    def unconfirmed(self) -> bool:
        """True for a published number that nobody could confirm."""
        return self.published is not None and self.published.unconfirmed and not self.paths

    @property
    def delta(self) -> float | None:
        """Mean minus the published number; None in a published row and where there is no such number."""
        return self.mean - self.published.value if self.published is not None and self.paths else None


@dataclass(frozen=True)
class Row:
    name: str
    """Display name, unique among our rows, or among those of the same paper."""
    published: bool
    """Taken from a paper, not measured here."""
    source: str
    """Paper and tables of a published row; architecture and training of one of ours, from its results."""


@dataclass(frozen=True)
class TransferTable:
    rows: tuple[Row, ...]
    """Ours (baselines first), then the published ones."""
    columns: tuple[Column, ...]
    """By protocol; a protocol's metrics stand side by side."""
    cells: Mapping[tuple[int, int], Cell]
    """By row and column number; what was not measured is missing."""


def build_table(
    results: Sequence[StoredResult], published: Sequence[Published] = (), names: Mapping[str, str] | None = None
) -> TransferTable:
    """Results and published numbers as one table.

    Results that differ in protocol, its version, metric or data never share a column, those that differ in
    architecture, training or network never a row. Published numbers join the columns of their protocol (in its present
    version) and metric whose results were tested on as many images; where there are results of ours, published numbers
    of protocols that none of them has stay out.
    `names`: what `row_of` says, or the table -> the name to show; named rows come in this order. A row of ours is
    compared with the published row of its name, and a random initialisation with that of its architecture.
    """
    names = dict(names or {})
    runs: dict[tuple[str, _Key], dict[tuple[str, int], tuple[float, StoredResult]]] = {}
    images: dict[_Key, int] = {}
    small: set[_Key] = set()
    backbones: dict[str, str] = {}
    short: dict[str, str] = {}
    baselines: dict[str, str] = {}
    for result in results:
        document = result.document
        row = row_of(document)
        backbones[row], short[row] = document["backbone"], short_row_of(document)
        baselines[row] = baseline_of(document)
        for metric, value in result.headline_metrics().items():
            column = _Key(result.kind, document["protocol"], result.version, metric, data_of(document))
            images[column] = _test_images(document)
            small |= {column} if result.scaled_down else set()
            runs.setdefault((row, column), {})[run_of(document)] = (value, result)
    if results:
        known = {column: _fitting(column, images[column], published) for column in images}
    else:
        known = {}
        for number in published:
            version = current_version(number.protocol)
            key = _Key(kind_of_protocol(number.protocol), number.protocol, version, number.metric, "")
            known.setdefault(key, []).append(number)
    metrics = {key: _metric(key) for key in known}
    order = list(descriptions())
    keys = sorted(known, key=lambda key: (order.index(key.kind), key.protocol, key.version, key.data, _place(key)))
    clear = {row: one if list(short.values()).count(one) == 1 else row for row, one in short.items()}
    keyed = {row: row if row in names else one for row, one in clear.items()}
    given = list(names)
    named = {row: given.index(keyed[row]) if keyed[row] in names else len(given) for row in backbones}
    own = sorted(backbones, key=lambda row: (_BASELINES.index(baselines[row]), named[row], row))
    theirs = list(dict.fromkeys((n.row, n.paper) for key in keys for n in known[key]))

    shown = [names.get(keyed[row], clear[row]) for row in own]
    cells: dict[tuple[int, int], Cell] = {}
    for y, row in enumerate(own):
        for x, key in enumerate(keys):
            if (row, key) in runs:
                found = list(runs[row, key].values())
                cells[y, x] = Cell(
                    tuple(value for value, _ in found),
                    tuple(int(result.document["seed"]) for _, result in found),
                    tuple(result.path for _, result in found),
                    _counterpart(shown[y], baselines[row] == "random", backbones[row], known[key]),
                    tuple(run_of(result.document)[0] for _, result in found),
                    any(_seed_matters(result) for _, result in found),
                )
    rows = [
        Row(f"{name} ({row})" if shown.count(name) > 1 else name, False, row)
        for name, row in zip(shown, own, strict=True)
    ]
    for y, (name, paper) in enumerate(theirs, len(rows)):
        sources = []
        for x, key in enumerate(keys):
            for number in known[key]:
                if (number.row, number.paper) == (name, paper):
                    cells[y, x] = Cell((number.value,), (), (), number)
                    sources.append(number.table)
        rows.append(Row(name, True, ", ".join([paper, *dict.fromkeys(sources)])))
    columns = _columns(keys, metrics, small)
    for x, shown_column in enumerate(columns):
        _mark_noise(cells, x, len(own), shown_column)
    return TransferTable(tuple(rows), columns, cells)


def _mark_noise(cells: dict[tuple[int, int], Cell], x: int, own: int, column: Column) -> None:
    """Marks our cells of a column whose distance from its best one may be noise of the evaluation alone."""
    found = {y: cells[y, x] for y in range(own) if (y, x) in cells}
    if column.noise is None or len(found) < 2:
        return
    sign = -1 if column.metric.better == "lower" else 1
    best = max(found, key=lambda y: sign * found[y].mean)
    for y, cell in found.items():
        deviation = column.noise.of_difference(len(cell.values), len(found[best].values))
        if y != best and abs(cell.mean - found[best].mean) < 2 * deviation:
            cells[y, x] = replace(cell, within_noise=True)


def _columns(keys: Sequence[_Key], metrics: Mapping[_Key, Metric], small: Collection[_Key]) -> tuple[Column, ...]:
    named = [(key.protocol, key.version, key.metric) for key in keys]
    columns = []
    for key, name in zip(keys, named, strict=True):
        superseded = key.version != current_version(key.protocol)
        noise = None if superseded else noise_of(key.protocol).get(key.metric)
        column = Column(key.protocol, metrics[key], "", key.data, key in small, key.version, superseded, noise)
        data = f", data {key.data}" if named.count(name) > 1 else ""
        columns.append(replace(column, title=f"{column.name}, {column.metric.head}{data}"))
    return tuple(columns)


def _metric(key: _Key) -> Metric:
    try:
        return find_description(key.kind).metric(key.metric)
    except (KeyError, UserError):
        raise UserError(
            f"no evaluation of ours measures {key.metric} under {key.protocol}, which has a number"
        ) from None


def _fitting(column: _Key, images: int, published: Sequence[Published]) -> list[Published]:
    if column.version != current_version(column.protocol):
        return []
    return [n for n in published if (n.protocol, n.metric, n.images) == (column.protocol, column.metric, images)]


def _seed_matters(result: StoredResult) -> bool:
    return result.description.seed_matters(result.document.get("settings", {}))


def _test_images(document: dict[str, Any]) -> int:
    """Number of images of the last part of the data, which is the one tested on; 0 where the result doesn't tell."""
    return int(list(document["data"].values())[-1].get("images", 0)) if document["data"] else 0


def _counterpart(name: str, untrained: bool, backbone: str, numbers: Sequence[Published]) -> Published | None:
    """The published number of the same row: by name, or both untrained. None also where papers disagree."""
    wanted = UNTRAINED if untrained else name
    found = [n for n in numbers if n.row == wanted and n.backbone == backbone and n.comparable]
    return found[0] if len({n.value for n in found}) == 1 else None


def _place(key: _Key) -> int:
    """Place of the metric among those of its kind."""
    return [metric.key for metric in descriptions()[key.kind].metrics].index(key.metric)
