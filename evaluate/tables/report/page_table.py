"""The page's transfer table: what stands in its heads, cells and notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluate.common.metrics import Metric
from evaluate.tables.renderers import (
    MODIFIED,
    NOISE,
    NOISE_MEANING,
    SCALED_DOWN,
    UNCONFIRMED,
    UNCONFIRMED_MEANING,
    unmeasured_noise,
)
from evaluate.tables.report.grouping import Measured
from evaluate.tables.transfer_table import Cell, Column, TransferTable

_SCALED_DOWN = "scaled down to run on a small machine: no paper has numbers of this protocol"
_MODIFIED = "settings of the protocol were changed, so that it compares with nothing but itself"


def table_parts(table: TransferTable, measured: Sequence[Measured]) -> dict[str, Any]:
    """`heads`, `rows`, `described`, `marks`, `unmeasured`, `sources` and `caveats` of the template."""
    numbers = {(one.row, one.result.path): one.number for one in measured}
    marks, heads = _heads(table.columns)
    unconfirmed = {"sign": UNCONFIRMED, "anchor": "unconfirmed", "meaning": UNCONFIRMED_MEANING, "detail": ""}
    if any(cell.unconfirmed for cell in table.cells.values()):
        marks.append(unconfirmed)
    if any(cell.within_noise for cell in table.cells.values()):
        marks.append({"sign": NOISE, "anchor": "noise", "meaning": NOISE_MEANING, "detail": ""})
    unmeasured = unmeasured_noise(table)
    sources, cited = _sources(table)
    rows: list[dict[str, Any]] = [
        {
            "number": y,
            "name": row.name,
            "source": row.source,
            "published": row.published,
            "cited": cited.get(y),
            "cells": [
                _cell(y, table.cells.get((y, x)), column.metric, numbers) for x, column in enumerate(table.columns)
            ],
        }
        for y, row in enumerate(table.rows)
    ]
    return {
        "heads": heads,
        "rows": rows,
        "described": [row for row in rows if not row["published"] and row["source"] != row["name"]],
        "marks": marks,
        "unmeasured": unmeasured[:1].upper() + unmeasured[1:],
        "sources": sources,
        "caveats": _caveats(table),
    }


def _heads(columns: Sequence[Column]) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """Marks, and one head for each protocol and state of the data with its metrics."""
    marks: dict[str, dict[str, str]] = {}
    heads: list[dict[str, Any]] = []
    states: dict[str, set[str]] = {}
    for column in columns:
        states.setdefault(column.name, set()).add(column.data)
    before = None
    for column in columns:
        kind = (column.name, column.data)
        if kind == before:
            heads[-1]["metrics"].append(column.metric.head)
            continue
        before = kind
        name, _, changes = column.protocol.partition(" (modified: ")
        name += column.name.removeprefix(column.protocol)
        own = []
        if column.scaled_down:
            scaled = {"sign": SCALED_DOWN, "anchor": "small", "meaning": _SCALED_DOWN, "detail": ""}
            own.append(marks.setdefault(SCALED_DOWN, scaled))
        if column.modified:
            number = sum(mark["sign"].startswith(MODIFIED) for mark in marks.values()) + 1
            changed = {
                "sign": f"{MODIFIED}{number}", "anchor": f"modified-{number}", "meaning": f"{name}: {_MODIFIED}",
                "detail": changes.removesuffix(")"),
            }  # fmt: skip
            own.append(marks.setdefault(column.name, changed))
        data = column.data if len(states[column.name]) > 1 else ""
        heads.append({"pieces": name.split("_"), "data": data, "marks": own, "metrics": [column.metric.head]})
    return list(marks.values()), heads


def _cell(row: int, cell: Cell | None, metric: Metric, numbers: dict[tuple[int, Any], int]) -> dict[str, Any] | None:
    if cell is None:
        return None
    published = cell.published
    url = _address(published.url) if published is not None else ""
    distinct = len(set(cell.seeds)) == len(cell.seeds)
    labels = cell.seeds if distinct else range(1, len(cell.seeds) + 1)
    links = [
        {"target": f"#result-{numbers[row, path]}", "text": text} for path, text in zip(cell.paths, labels, strict=True)
    ]
    return {
        "mean": metric.text(cell.mean),
        "mark": UNCONFIRMED * cell.unconfirmed,
        "noise": NOISE * cell.within_noise,
        "std": "" if cell.std is None else metric.text(cell.std),
        "counted": f"{cell.counted[0]} {cell.counted[1]}",
        "links": links or [{"target": url, "text": ""}],
        "delta": "" if cell.delta is None else metric.signed(cell.delta).replace("-", "−"),
        "published": "" if published is None else metric.text(published.value),
        "url": url,
    }


def _sources(table: TransferTable) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """Papers with the rows taken from them, and by row the place of its paper, from 1."""
    sources: dict[tuple[Any, ...], dict[str, Any]] = {}
    cited = {}
    for y, row in enumerate(table.rows):
        numbers = [table.cells[y, x].published for x in range(len(table.columns)) if (y, x) in table.cells]
        found = [number for number in numbers if number is not None]
        if row.published and found:
            notes = tuple(dict.fromkeys(number.note for number in found if number.note))
            key = (row.source, found[0].url, notes)
            empty = {"names": [], "text": row.source, "url": _address(found[0].url), "notes": notes}
            sources.setdefault(key, empty)["names"].append(row.name)
            cited[y] = list(sources).index(key) + 1
    return list(sources.values()), cited


def _caveats(table: TransferTable) -> list[str]:
    """Limits of the numbers."""
    own = [cell for cell in table.cells.values() if cell.paths]
    single = sum(cell.std is None for cell in own)
    if not single:
        return []
    which = "Every measured number rests" if single == len(own) else f"{single} of {len(own)} measured numbers rest"
    return [
        f"{which} on a single measurement of one network. Where two of them differ by no more than runs of other "
        f"seeds do (the ± of a cell with several), they don't rank the backbones."
    ]


def _address(url: str) -> str:
    """The address of a paper; nothing that a browser would run."""
    return url if url.startswith(("https://", "http://")) else ""
