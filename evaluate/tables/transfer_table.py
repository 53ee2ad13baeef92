"""The transfer table: rows are backbones, columns a protocol's metric on one state of the data; seeds share a cell."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluate.tables.published import Published
from evaluate.tables.results import TITLES, StoredResult, data_of, headlines, row_of, run_of, short_row_of

_SMALL = re.compile(r"(?:^|_)(?:scenes|fashion_mnist|small|tiny)(?:_|$)")


@dataclass(frozen=True)
class Column:
    protocol: str
    """The protocol's full name, with ` (modified: …)` where it was changed."""
    metric: str
    """A key of `results.TITLES`."""
    title: str
    """For people; tells the column from every other one."""
    data: str
    """The first digits of the data's digests; empty where there are published numbers only."""
    scaled_down: bool
    """Made to run on a small machine: its name says so, and no paper has numbers of it."""

    @property
    def modified(self) -> bool:
        """Settings of the protocol were changed."""
        return " (modified: " in self.protocol


@dataclass(frozen=True)
class Cell:
    values: tuple[float, ...]
    """In percent, one of each run."""
    seeds: tuple[int, ...]
    """The runs' seeds; empty in a published row."""
    paths: tuple[Path, ...]
    """The runs' result.json; empty in a published row."""
    published: Published | None
    """The number itself in a published row; in a row of ours, the number that was published for the same."""
    networks: tuple[str, ...] = ()
    """For each run the digest of its backbone's weights; empty: all are of one network."""
    drawn: bool = True
    """Whether the runs' seed decides something beside the weights."""

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
        """How many of what `std` is over: networks where there are several, else runs of the one network.

        Runs of one network are called seeds where these differ. Runs that agree because nothing is drawn are one.
        """
        networks = len(self.network_means)
        if networks > 1:
            return networks, "networks"
        if not self.drawn and len(set(self.values)) == 1:
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
    def delta(self) -> float | None:
        """Mean minus the published number, in points; None in a published row and where there is no such number."""
        return self.mean - self.published.value if self.published is not None and self.paths else None


@dataclass(frozen=True)
class Row:
    name: str
    """For people; tells the row from every other one of ours, or of the same paper."""
    published: bool
    """Taken from a paper, not measured here."""
    source: str
    """Of a published row: paper and tables. Of ours: architecture and training, as the results tell them."""


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

    Results that differ in protocol, metric or data never share a column, those that differ in architecture, training
    or network never a row. Published numbers join the columns of their protocol and metric whose results were tested
    on as many images; where there are results of ours, published numbers of protocols that none of them has stay out.
    `names`: what `row_of` says, or the table -> the name to show; named rows come in this order. A row of ours is
    compared with the published row of its name, and a random initialisation with that of its architecture.
    """
    names = dict(names or {})
    runs: dict[tuple[str, tuple[str, str, str]], dict[tuple[str, int], tuple[float, StoredResult]]] = {}
    images: dict[tuple[str, str, str], int] = {}
    backbones: dict[str, str] = {}
    short: dict[str, str] = {}
    for result in results:
        document = result.document
        row = row_of(document)
        backbones[row], short[row] = document["backbone"], short_row_of(document)
        for metric, value in headlines(document).items():
            column = (document["protocol"], metric, data_of(document))
            images[column] = _test_images(document)
            runs.setdefault((row, column), {})[run_of(document)] = (value, result)
    if results:
        known = {column: _fitting(column, images[column], published) for column in images}
    else:
        known = {}
        for number in published:
            known.setdefault((number.protocol, number.metric, ""), []).append(number)
    keys = sorted(known, key=lambda key: (_place(key[0], key[1]), key[0], key[2], list(TITLES).index(key[1])))
    clear = {row: one if list(short.values()).count(one) == 1 else row for row, one in short.items()}
    keyed = {row: row if row in names else one for row, one in clear.items()}
    given = list(names)
    own = sorted(
        backbones, key=lambda row: (_rank(row), given.index(keyed[row]) if keyed[row] in names else len(given), row)
    )
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
                    _counterpart(shown[y], row, backbones[row], known[key]),
                    tuple(run_of(result.document)[0] for _, result in found),
                    any(_draws(result.document) for _, result in found),
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
    return TransferTable(tuple(rows), _columns(keys), cells)


def _columns(keys: Sequence[tuple[str, str, str]]) -> tuple[Column, ...]:
    kinds = [(protocol, metric) for protocol, metric, _ in keys]
    return tuple(
        Column(
            protocol,
            metric,
            f"{protocol}, {TITLES[metric]}" + (f", data {data}" if kinds.count((protocol, metric)) > 1 else ""),
            data,
            _SMALL.search(protocol.partition(" ")[0]) is not None,
        )
        for protocol, metric, data in keys
    )


def _fitting(column: tuple[str, str, str], images: int, published: Sequence[Published]) -> list[Published]:
    return [n for n in published if (n.protocol, n.metric, n.images) == (column[0], column[1], images)]


def _draws(document: dict[str, Any]) -> bool:
    """Whether the seed decides something beside the weights: all but k-NN with the whole bank trains, or samples."""
    settings = document.get("settings", {})
    data = settings.get("data")
    limit = data.get("limit") if isinstance(data, dict) else None
    return settings.get("shots") is not None or limit is not None or not str(document["protocol"]).startswith("knn_")


def _test_images(document: dict[str, Any]) -> int:
    """Number of images of the last part of the data, which is the one tested on; 0 where the result doesn't tell."""
    return int(list(document["data"].values())[-1].get("images", 0)) if document["data"] else 0


def _counterpart(name: str, row: str, backbone: str, numbers: Sequence[Published]) -> Published | None:
    """The published number of the same row: by name, or both untrained. None also where papers disagree."""
    wanted = "random initialisation" if row.endswith(", random initialisation") else name
    found = [n for n in numbers if n.row == wanted and n.backbone == backbone and n.exact]
    return found[0] if len({n.value for n in found}) == 1 else None


def _rank(row: str) -> int:
    return 0 if row == "raw pixels" else 1 if row.endswith(", random initialisation") else 2


def _place(protocol: str, metric: str) -> int:
    """Cheap probes first, then detection, then segmentation."""
    kinds = ("knn", "linear", "logreg", "finetune", "transfer")
    probe = next((i for i, kind in enumerate(kinds) if protocol.startswith(f"{kind}_")), None)
    return probe if probe is not None else len(kinds) + (metric == "mIoU")
