"""Every benchmark runs in a tiny setting and writes the JSON it promises; no `--help` needs torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.alternate import from_json
from benchmarks.startup import entry_points
from tests.torchrun import fresh_python, python

NETWORKS = ("--backbone", "test_resnet", "--sizes", "32", "16", "--heads", "64", "32")
TINY_STEP = (*NETWORKS, "--batch", "4", "--parity-steps", "2")
TINY = {
    "views": (("--images", "2"), 5),
    "step": ((*TINY_STEP, "--profile"), 3),
    "knn": (
        ("--bank", "2000", "--queries", "500", "--width", "32", "--classes", "20", "--banks", "500", "1000", "2000",
         "--bank-queries", "100"),
        4,
    ),
    "probes": (("--images", "200", "--width", "16", "--batch", "50", "--epochs", "1"), 5),
    "convert": (("--names", "resnet50"), 2),
    "scaling": ((*NETWORKS, "--batch", "2", "--steps", "1", "--bucket", "0.1"), 4),
    "gpu": (
        (*TINY_STEP, "--device", "cpu", "--bank", "400", "--steps", "1", "--images", "8",
         "--parts", "parity", "JPEG", "k-NN"),
        4,
    ),
}  # fmt: skip


def measured(name: str, tmp_path: Path) -> dict[str, Any]:
    arguments, _ = TINY[name]
    file = tmp_path / "found.json"
    more = ("--plot", str(tmp_path / "curve.png")) if name == "knn" else ()
    done = python(f"benchmarks/{name}.py", *arguments, *more, "--rounds", "1", "--json", str(file), timeout=500)
    assert done.returncode == 0, done.stderr
    document = json.loads(file.read_text(encoding="utf-8"))
    if name == "gpu":  # writes what benchmarks/report.py reads
        document = document["gpu"]
        del document["seconds"]
    return document


def measured_by_the_driver(name: str, tmp_path: Path) -> dict[str, Any]:
    """The same through benchmarks/run.py, which adds its figures to those of a file."""
    out = tmp_path / "machine.json"
    out.write_text(json.dumps({"step": {"seconds": 1.0}}), encoding="utf-8")
    arguments, _ = TINY[name]
    done = python("benchmarks/run.py", "--only", name, "--out", str(out), "--more", *arguments, "--rounds", "1")
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["step"] == {"seconds": 1.0}
    assert found[name].pop("seconds") > 0
    return found[name]


@pytest.mark.parametrize("name", TINY, ids=lambda name: f"{name}.py")
def test_a_benchmark_writes_its_figures(name: str, tmp_path: Path) -> None:
    document = (measured_by_the_driver if name == "views" else measured)(name, tmp_path)
    report = from_json(document)
    assert report.benchmark == name
    assert report.machine["name"]
    assert report.machine["torch"]
    assert report.machine["threads"] == 1
    assert len(report.rows) == TINY[name][1]
    for row in report.rows:
        assert all(value >= 0 for value in row.figure()), row
        assert all(len(values) == len(row.figure()) for values in row.values.values()), row
    if name == "scaling":
        assert report.rows[3].figure() == [1.0]
        assert len(report.facts["timeline"]["buckets"]) > 5
    if name in ("step", "gpu"):
        assert report.rows[0].reached()
    if name == "knn":
        assert (tmp_path / "curve.png").stat().st_size > 1000
        assert {"slope", "power", "imagenet_r50_hours"} <= report.facts.keys()


@pytest.mark.parametrize("file", entry_points(), ids=str)
def test_help_imports_neither_torch_nor_numpy(file: Path) -> None:
    done = fresh_python("-X", "importtime", str(file), "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"torch", "numpy", "timm", "sklearn", "faiss"}


def test_all_entry_points_are_found() -> None:
    assert {"pretrain/run.py", "evaluate/knn.py", "converters/convert.py"} <= {str(file) for file in entry_points()}
