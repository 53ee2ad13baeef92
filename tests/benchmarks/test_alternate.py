"""Comparisons: ways run in turn, ratios are taken round by round, and the JSON gives back the same report."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import pytest

from benchmarks.alternate import Goal, Row, alternate, finish, from_json, measure_in_turn, spread
from benchmarks.report import line, main, marks, tables


def test_ways_take_turns_and_the_first_round_is_not_counted() -> None:
    order: list[str] = []
    figures = itertools.count()

    def measure(way: str) -> float:
        order.append(way)
        return float(next(figures))

    found = measure_in_turn({"a": lambda: measure("a"), "b": lambda: measure("b")}, rounds=2)
    assert order == ["a", "b"] * 3
    assert found == {"a": [2.0, 4.0], "b": [3.0, 5.0]}


def test_times_are_differences_of_the_clock() -> None:
    ticks = iter([0.0, 1.0, 10.0, 13.0])
    taken = alternate({"a": lambda: None, "b": lambda: None}, 1, lambda: next(ticks), warm_up=0, scale=1000)
    assert taken == {"a": [1000.0], "b": [3000.0]}


def test_ratios_are_taken_round_by_round() -> None:
    row = Row("x", "s", {"ours": [1.0, 2.0, 4.0], "theirs": [3.0, 8.0, 8.0]}, ("theirs", "ours"), Goal("≥", 3))
    assert row.figure() == [3.0, 4.0, 2.0]
    assert row.reached() is True
    assert Row("x", "s", {"ours": [1.0, 2.0, 9.0]}, goal=Goal("≤", 1.9)).reached() is False
    assert Row("x", "calls", {"ours": [1.0]}, goal=Goal("=", 1)).reached() is True
    assert Row("x", "s", {"ours": [1.0]}).reached() is None


def test_spread() -> None:
    assert spread([3.0, 1.0, 2.0]) == "2 (1 … 3)"
    assert spread([0.12345]) == "0.1235"


def test_a_report_survives_its_json_and_becomes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row("reading", "ms", {"ours": [1.0, 1.0], "theirs": [12.0, 14.0]}, ("theirs", "ours"), Goal("≥", 10), "so")
    file = tmp_path / "found.json"
    finish("views", argparse.Namespace(json=file, rounds=2, threads=1), [row], size=7)
    document = json.loads(file.read_text(encoding="utf-8"))
    assert from_json(document).rows == [row]
    assert document["facts"] == {"size": 7}
    assert document["machine"]["torch"]
    expected = "| reading; so | theirs 13 (12 … 14); ours 1 (1 … 1) ms | 13 (12 … 14) × | ≥ 10 | reached |"
    assert line(row) == expected

    figures, page = tmp_path / "machine.json", tmp_path / "performance.md"
    figures.write_text(json.dumps({"views": {**document, "seconds": 3.0}}), encoding="utf-8")
    start, end = marks({"views": document})
    other = marks({"gpu": document})[0]
    assert other != start
    page.write_text(f"# Speed\n{start}\nold\n{end}\nend\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["report.py", str(figures), "--page", str(page)])
    main()
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# Speed\n{start}\n")
    assert text.endswith(f"{end}\nend\n")
    assert expected in text
    assert "old" not in text
    assert tables({"views": {**document, "seconds": 3.0}}) in text
