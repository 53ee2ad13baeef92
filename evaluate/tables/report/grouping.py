"""The results behind a table's own rows, each once, with the columns it fills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluate.tables.results import StoredResult
from evaluate.tables.transfer_table import TransferTable


@dataclass(frozen=True)
class Measured:
    number: int
    """In the page, from 1."""
    row: int
    """Row of the table."""
    columns: tuple[int, ...]
    """Columns of the table, at least one."""
    result: StoredResult

    @property
    def seed(self) -> int:
        return int(self.result.document["seed"])

    @property
    def folder(self) -> Path:
        return self.result.path.parent


@dataclass(frozen=True)
class Group:
    """Results that may be compared: of one protocol on one state of the data."""

    protocol: str
    """The protocol's full name, with its version where the column shows it."""
    data: str
    """The first digits of the data's digests; empty where the protocol has one state of the data."""
    members: tuple[Measured, ...]
    """By row, then seed."""


def list_measured(table: TransferTable, results: Sequence[StoredResult]) -> list[Measured]:
    """By row, column and seed. Results that the table left out (repeated runs) are not among them."""
    by_path = {result.path: result for result in results}
    columns: dict[tuple[int, Path], list[int]] = {}
    for (row, column), cell in sorted(table.cells.items()):
        for path in cell.paths:
            columns.setdefault((row, path), []).append(column)
    found = sorted(columns.items(), key=lambda one: (one[0][0], one[1][0], by_path[one[0][1]].document["seed"]))
    return [
        Measured(number, row, tuple(filled), by_path[path]) for number, ((row, path), filled) in enumerate(found, 1)
    ]


def group(table: TransferTable, measured: Sequence[Measured]) -> list[Group]:
    """In the order of the table's columns."""
    kinds: dict[tuple[str, str], list[Measured]] = {}
    for column in table.columns:
        kinds.setdefault((column.name, column.data), [])
    for one in measured:
        column = table.columns[one.columns[0]]
        kinds[column.name, column.data].append(one)
    protocols = [protocol for protocol, _ in kinds]
    return [
        Group(protocol, data if protocols.count(protocol) > 1 else "", tuple(members))
        for (protocol, data), members in kinds.items()
        if members
    ]
