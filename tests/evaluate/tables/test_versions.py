"""Versions of a protocol: results of two of them share no column, and published numbers join the present one only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from evaluate.common import protocol
from evaluate.tables.published import Published
from evaluate.tables.report.grouping import group, list_measured
from evaluate.tables.results import StoredResult, read_result
from evaluate.tables.transfer_table import TransferTable, build_table
from tests.evaluate.tables.test_transfer_table import document

NUMBER = Published(
    "x", "knn_a", "top1", 50.0, "A paper", "Table 1", "https://arxiv.org/abs/1", "resnet18", 100
)  # fmt: skip


def stored(top1: float, **values: Any) -> StoredResult:
    return StoredResult(Path(f"{top1}/result.json"), document(top1) | values)


@pytest.fixture
def second_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "knn_a.yaml").write_text("name: knn_a\nkind: knn\nprotocol_version: 2\n")
    monkeypatch.setattr(protocol, "FOLDER", tmp_path)


def values(table: TransferTable) -> dict[str, tuple[float, ...]]:
    return {table.columns[x].title: cell.values for (y, x), cell in table.cells.items() if not table.rows[y].published}


@pytest.mark.usefixtures("second_version")
def test_two_versions_never_share_a_column() -> None:
    results = [stored(40.0), stored(44.0, protocol_version=2)]
    table = build_table(results, [NUMBER], {"resnet18, x.pth": "x"})
    assert values(table) == {"knn_a, version 1, top-1": (40.0,), "knn_a, version 2, top-1": (44.0,)}
    assert [column.superseded for column in table.columns] == [True, False]
    deltas = {table.columns[x].version: cell.delta for (_, x), cell in table.cells.items() if cell.paths}
    assert deltas == {1: None, 2: -6.0}
    groups = group(table, list_measured(table, results))
    assert [(one.protocol, len(one.members)) for one in groups] == [("knn_a, version 1", 1), ("knn_a, version 2", 1)]


@pytest.mark.usefixtures("second_version")
def test_published_numbers_belong_to_the_present_version() -> None:
    old = build_table([stored(40.0)], [NUMBER])
    assert [row.published for row in old.rows] == [False]
    assert [column.title for column in build_table([], [NUMBER]).columns] == ["knn_a, version 2, top-1"]


def test_a_result_that_states_no_version_is_of_the_first() -> None:
    assert stored(40.0).version == 1
    table = build_table([stored(40.0), stored(42.0, protocol_version=1, seed=1)])
    assert values(table) == {"knn_a, top-1": (40.0, 42.0)}


@pytest.mark.parametrize("wrong", [0, "2", None, True])
def test_a_version_that_is_not_a_count(tmp_path: Path, wrong: object) -> None:
    import json

    path = tmp_path / "result.json"
    path.write_text(json.dumps(document(40.0) | {"protocol_version": wrong}))
    with pytest.raises(UserError, match=r"protocol_version") as caught:
        read_result(path)
    assert str(path) in str(caught.value)
