"""A new kind of evaluation is one file and one YAML: it runs in a suite and stands in table and report."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from core.project import ROOT
from evaluate.common.registry import VARIABLE
from tests.evaluate.common.throwaway_probe import result_of, write_probe
from tests.torchrun import python


def test_a_probe_in_one_file_runs_in_a_suite_and_stands_in_table_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = write_probe(tmp_path / "mine")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    results = tmp_path / "results"
    run = python(
        "evaluate/suite.py", "--ckpts", "pixels", "--suite", str(suite), "--results", str(results), "--seeds", "2",
        "--device", "cpu",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    document = result_of(results)
    assert (document["kind"], document["scaled_down"], document["seed"]) == ("mean_pixel", True, 0)
    metrics = document["metrics"]
    assert isinstance(metrics, dict)
    head = next(line for line in run.stdout.splitlines() if line.startswith("| backbone"))
    assert "mean_pixel_scenes, top-1†" in head
    assert "mean_pixel_scenes, distance (levels) ↓†" in head
    assert f"[{metrics['distance']:.2f}](" in run.stdout

    table, page = tmp_path / "table.csv", tmp_path / "page"
    made = python(
        "evaluate/table.py", str(results), "--format", "csv", "--out", str(table), "--html", str(page)
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    lines = list(csv.DictReader(table.open()))
    assert [(line["metric"], line["unit"], line["better"], line["scaled_down"]) for line in lines] == [
        ("top1", "%", "higher", "True"),
        ("distance", "levels", "lower", "True"),
    ]
    assert float(lines[1]["mean"]) == pytest.approx(metrics["distance"], abs=1e-4)
    text = (page / "index.html").read_text()
    assert "distance (levels) ↓" in text
    assert "Distance of each class (levels)" in text
