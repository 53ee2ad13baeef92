"""Suites and studies as arrays of Slurm's jobs with what must wait for them, run by stand-ins for its programs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.project import ROOT
from tests import fake_slurm
from tests.evaluate.studies.test_study import STUDY
from tests.torchrun import warm_python

pytest.importorskip("submitit")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", fake_slurm.install(tmp_path / "slurm"))
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "slurm"


def start(monkeypatch: pytest.MonkeyPatch, door: str, *words: str) -> None:
    argv = [str(ROOT / f"evaluate/{door}.py"), *words]
    python = SimpleNamespace(argv=argv, executable=str(warm_python()), stderr=sys.stderr)
    for module in ("evaluate.suites.cluster", "evaluate.studies.cluster"):
        monkeypatch.setattr(f"{module}.sys", python)
    monkeypatch.setattr(sys, "argv", argv)
    if door == "suite":
        from evaluate.suites.command import main
    else:
        from evaluate.studies.command import main
    main()


def test_a_suite_follows_a_training_as_one_array_and_a_table(
    slurm: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.yaml").write_text(
        "evaluations:\n"
        f"  - {{run: knn, protocol: knn_scenes_64px, data: 'folder:{image_folder}', settings: ['ks=[3]']}}\n"
        f"  - {{run: knn, protocol: knn_scenes_64px, data: 'folder:/nowhere', settings: ['ks=[1]']}}\n"
    )
    words = ["--suite", "own.yaml", "--ckpts", "pixels", "--device", "cpu", "--jobs", "2", "--after", "100"]
    cluster = ["--launcher", "submitit", "--gpus", "1", "--account", "vision", "--time", "30"]
    (slurm / "queue/100.sh").write_text("#!/bin/sh\n")  # the training
    start(monkeypatch, "suite", *words, *cluster)
    training, driver, array, table = fake_slurm.run_queue(slurm)
    assert driver.options["dependency"] == f"afterok:{training.number}"
    assert driver.codes == (0,), driver.outputs
    assert array.options["array"] == "0-1%2"
    assert (array.options["account"], array.options["time"]) == ("vision", "30")
    assert "requeue" in array.options
    assert all(f"submitit/{array.number}_{task}" in driver.outputs[0] for task in range(2))
    assert sorted(map(bool, array.codes)) == [False, True], array.outputs
    assert len(list((tmp_path / "results").rglob("result.json"))) == 1
    assert table.options["dependency"] == f"afterany:{array.number}"
    assert table.codes == (0,)
    assert "raw pixels |" in table.outputs[0]


def test_a_study_is_trained_then_evaluated_then_shown(
    slurm: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tmp_path / "tiny.yaml"
    one_arm = STUDY.replace("    per view: [predictors=per_view]\n", "").replace("seeds: 2", "seeds: 1")
    study.write_text(one_arm.format(images=image_folder))
    start(
        monkeypatch, "study", str(study), "--device", "cpu", "--jobs", "2", "--launcher", "submitit", "--gpus", "1",
        "--partition", "p",
    )  # fmt: skip
    trainings, evaluations, table = fake_slurm.run_queue(slurm)
    assert trainings.codes == (0,), trainings.outputs
    assert evaluations.options["dependency"] == f"afterok:{trainings.number}"
    assert evaluations.options["array"] == "0-2%2"
    assert evaluations.codes == (0, 0, 0), evaluations.outputs
    assert len(list(tmp_path.glob("studies/tiny/results/**/result.json"))) == 3  # the arm, untrained, pixels
    assert table.options["dependency"] == f"afterany:{evaluations.number}"
    assert "MoCo v3 · shared" in table.outputs[0]
    assert "not measured" not in table.outputs[0]
