"""evaluate/tables/report/curves.py: which run a result came from, and what its metrics tell."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from core.files.atomic_file import file_digest
from evaluate.tables.report.curves import Run, find_run, read_run
from evaluate.tables.report.page import write_page
from tests.evaluate.tables.report.small_report import Element, read_page, small_table


def line(step: int, **values: Any) -> str:
    return json.dumps({"step": step, "epoch": step / 10, "lr": 0.1, "images_per_second": 5.0, **values}) + "\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder whose metrics have three view types, the monitor, and three damaged lines of nine."""
    folder = tmp_path / "a run (copy)"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "backbone.safetensors").write_bytes(b"weights")
    (folder / "checkpoints" / "step_20.pt").write_bytes(b"state")
    views = {"loss/global": 1.0, "loss/local": 2.0, "loss/<i>": 3.0}
    text = "".join(line(step, loss=6.0, loss_max=7.0, gradient_norm_max=8.0, **views) for step in (5, 10, 15, 20))
    text += line(10, knn_top1=50.0) + line(20, knn_top1=60.0)
    text += line(25, loss=float("nan")) + '["no object"]\n' + line(30, loss=1.0)[:20]
    (folder / "metrics.jsonl").write_text(text)
    return folder


def checkpoint(file: Path, **changed: Any) -> dict[str, Any]:
    given = f"{file} (exported online backbone, resnet18(channels=[16]))"
    return {"family": "ssl-transfer", "given": given, "file_sha256": file_digest(file), **changed}


@pytest.mark.parametrize("file", ["backbone.safetensors", "checkpoints/step_20.pt"])
def test_the_run_of_an_export_and_of_a_state_is_found(run: Path, file: str) -> None:
    found = find_run(checkpoint(run / file))
    assert isinstance(found, Run)
    assert (found.folder, found.damaged, found.lines) == (run, 3, 9)
    assert found.series["loss/global"] == ((0.5, 1.0, 1.5, 2.0), (1.0, 1.0, 1.0, 1.0))
    assert found.series["knn_top1"] == ((1.0, 2.0), (50.0, 60.0))
    assert set(found.series) == {"loss/global", "loss/local", "loss/<i>", "knn_top1"}


def test_why_there_are_no_curves(run: Path, tmp_path: Path) -> None:
    file = run / "backbone.safetensors"
    assert "pre-trained" in str(find_run({"family": "dino", "given": f"{file} (x)"}))
    assert "pre-trained" in str(find_run({}))
    gone = {"family": "ssl-transfer", "given": "runs/gone/backbone.safetensors (exported)"}
    assert str(find_run(gone)).startswith("runs/gone/backbone.safetensors ")
    assert str(find_run({"family": "ssl-transfer", "given": "x" * 5000 + " (y)"})).startswith("x" * 5000 + " ")
    reported = checkpoint(file)
    file.write_bytes(b"other weights")
    assert re.search(rf"{re.escape(str(file))}.*changed.*{re.escape(str(run))}/metrics", str(find_run(reported)))
    (run / "metrics.jsonl").unlink()
    assert re.search(f"no {re.escape(str(run))}/metrics", str(find_run(reported)))


def test_an_empty_text_has_no_curve(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\x00{\n[[[\n")
    assert read_run(tmp_path / "metrics.jsonl") == Run(tmp_path, {}, 2, 2)


def curves(run: Path, tmp_path: Path) -> Element:
    table, results = small_table(tmp_path, **checkpoint(run / "backbone.safetensors"))
    page = read_page(write_page(table, results, tmp_path / "report"))
    return page.one("section", **{"aria-labelledby": "curves"})


def test_each_view_type_and_the_monitor_have_a_panel(run: Path, tmp_path: Path) -> None:
    shown = curves(run, tmp_path)
    titles = [panel.text for panel in shown.all("h3")]
    assert [title.split()[-1] for title in titles[:3]] == ["global", "local", "<i>"]
    assert [("Loss" in title, "k-NN" in title) for title in titles] == [(True, False)] * 3 + [(False, True)]
    charts = shown.all("svg")
    assert "ours: 60.00 at epoch 2." in charts[3].attributes["aria-label"]
    assert [one.text for one in shown.one("ul").all("li")] == ["■ ours"]
    assert f"3 of 9 lines of {run / 'metrics.jsonl'} " in shown.text
    assert "curves of base: " in shown.text
    # Two charts of a page share no names, and the run is drawn in the colour of its row.
    names = [one.attributes["id"] for chart in charts for one in chart.all("*") if "id" in one.attributes]
    assert len(names) == len(set(names))
    assert all("var(--c1)" in str(chart) and "var(--c0)" not in str(chart) for chart in charts)


def test_the_only_view_type_is_global_and_a_missing_monitor_is_reported(run: Path, tmp_path: Path) -> None:
    (run / "metrics.jsonl").write_text("".join(line(step, loss=6.0 - step) for step in range(5)))
    shown = curves(run, tmp_path)
    assert [panel.text.split()[-1] for panel in shown.all("h3")] == ["global"]
    assert "ours: 2.00 at epoch 0.4." in shown.one("svg").attributes["aria-label"]
    assert "No run" in shown.text


def test_an_empty_file_is_reported(run: Path, tmp_path: Path) -> None:
    (run / "metrics.jsonl").write_text("")
    shown = curves(run, tmp_path)
    assert not shown.all("svg")
    assert f"{run / 'metrics.jsonl'} " in shown.text
