"""evaluate/study.py on tiny data: plan, trainings, evaluations, record; killed and resumed, finished runs are kept."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from core.errors import UserError
from core.project import CONFIGS, ROOT
from evaluate.studies import record as records
from evaluate.studies.command import main
from evaluate.studies.config import FOLDER, open_study
from evaluate.studies.courses import course_tables
from evaluate.studies.findings import PAGE, page, summary
from evaluate.studies.record import read_record
from evaluate.studies.trainings import trainings_of
from tests.torchrun import Process, warm_python

STUDY = """
question: Does a second predictor matter?
recipe: demo_fashion_mnist
settings:
  - epochs=1
  - batch=4
  - "data.source='folder:{images}'"
  - data.limit=null
  - "backbone={{name: resnet18, args: {{channels: [8, 8, 8, 16]}}, stem: small}}"
  - projector.widths=[16, 8]
  - predictor.widths=[16, 8]
seeds: 2
factors:
  objective: {{MoCo v3: []}}
  predictors:
    shared: [predictors=shared]
    per view: [predictors=per_view]
evaluations:
  - {{run: knn, protocol: knn_fashion_mnist_32px, data: "folder:{images}", settings: ["ks=[3]"]}}
"""

STUDIES = sorted(file.stem for file in FOLDER.glob("*.yaml"))


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["study.py", *arguments])
    monkeypatch.setattr(sys, "executable", str(warm_python()))
    main()
    return capsys.readouterr().out


def holders(folder: Path) -> list[int]:
    """Processes that have a file below `folder` open: what they print goes there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(str(file.readlink()).startswith(f"{folder}/") for file in (process / "fd").iterdir()):
                found.append(int(process.name))
    return found


def kill_during(study: Process, training: Path) -> None:
    """SIGKILL to the study and all its runs once the training has begun."""
    while not (training / "config.yaml").is_file():
        assert study.poll() is None, study.communicate()
        time.sleep(0.01)
    study.kill()
    while running := holders(training.parent.parent):
        for pid in running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert not (training / "backbone.safetensors").exists()


def test_from_arms_to_a_record(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, out = tmp_path / "tiny.yaml", tmp_path / "out"
    study.write_text(STUDY.format(images=image_folder))
    monkeypatch.setattr(records.write_record, "__defaults__", (tmp_path / "records",))
    given = [str(study), "--out", str(out), "--device", "cpu", "--jobs", "2", "--record"]
    plan = run(monkeypatch, capsys, *given, "--dry-run")
    assert "MoCo v3 · per view (against MoCo v3 · shared), seeds 0 … 1: predictors=per_view" in plan
    assert not out.exists()
    assert run(monkeypatch, capsys, *given, "--emit").count("python pretrain/run.py --config") == 4
    assert not out.exists()
    with pytest.raises(UserError, match="4 trainings are not finished"):
        run(monkeypatch, capsys, *given, "--table")
    first = run(monkeypatch, capsys, *given)
    record = read_record(tmp_path / "records/tiny.json")
    assert [(each.arm, each.seed) for each in record.trained] == [
        ("MoCo v3 · shared", 0), ("MoCo v3 · per view", 0), ("MoCo v3 · shared", 1), ("MoCo v3 · per view", 1)
    ]  # fmt: skip
    (protocol,) = record.protocols()
    assert len(record.measured) == 7  # two arms and the untrained network with two seeds, pixels once
    for arm in (*record.baselines, "untrained"):
        assert set(record.values(arm, protocol, "top1")) == {0, 1}
    difference = record.difference("MoCo v3 · per view", protocol, "top1")
    assert difference is not None
    shared, separate = (record.values(arm, protocol, "top1") for arm in record.baselines)
    assert difference.mean == pytest.approx(sum(separate[seed] - shared[seed] for seed in (0, 1)) / 2)
    assert summary(record) in first

    assert all(each.seconds > 0 and each.git_revision == record.git_revision for each in record.trained)

    result, other = list((out / "results").rglob("result.json"))[:2]
    result.unlink()
    other.write_text(re.sub('("git_revision": )"[^"]*"', r'\1"0ther"', other.read_text()))
    shutil.rmtree(out / "runs/moco-v3-shared-seed1")
    with pytest.raises(UserError, match="1 trainings are not finished"):
        run(monkeypatch, capsys, *given, "--share", "0/2")
    kill_during(Process(str(ROOT / "evaluate/study.py"), *given), out / "runs/moco-v3-shared-seed1")
    again = run(monkeypatch, capsys, *given)
    starts = [line for line in again.splitlines() if line.startswith("starts")]
    assert len(starts) == 2
    once_more = read_record(tmp_path / "records/tiny.json")
    for before, after in zip(record.trained, once_more.trained, strict=True):
        assert after.last["loss"] == before.last["loss"]  # the same bits, although it was killed
    assert [each.metrics for each in once_more.measured] == [each.metrics for each in record.measured]
    assert set(once_more.git_revision.split(", ")) == {record.git_revision, "0ther"}

    result.unlink()
    (tmp_path / "records/tiny.json").unlink()
    with pytest.raises(UserError, match="no record of an unfinished study: 1 evaluations are missing"):
        run(monkeypatch, capsys, *given, "--table")
    shown = capsys.readouterr()
    assert shown.err.count("not measured: ") == 1
    assert "| MoCo v3 · shared |" in shown.out, "what is measured is shown"
    assert not list((tmp_path / "records").iterdir())
    run(monkeypatch, capsys, *given, "--share", "0/1")
    assert result.is_file()
    tagged = run(monkeypatch, capsys, *given, "--table", "--tag", "cpu")
    assert "tiny-cpu.json" in tagged
    assert [each.metrics for each in read_record(tmp_path / "records/tiny-cpu.json").measured] == [
        each.metrics for each in record.measured
    ]

    twin = tmp_path / "twin"
    shutil.copytree(out / "results", twin / "results")
    for seed, arm in itertools.product((0, 1), ("shared", "again")):
        shutil.copytree(out / f"runs/moco-v3-shared-seed{seed}", twin / f"runs/moco-v3-{arm}-seed{seed}")
    same = tmp_path / "same.yaml"
    same.write_text(study.read_text().replace("per view: [predictors=per_view]", "again: [predictors=shared]"))
    run(monkeypatch, capsys, str(same), "--out", str(twin), "--device", "cpu", "--table", "--record")
    equal = read_record(tmp_path / "records/same.json").difference("MoCo v3 · again", protocol, "top1")
    assert equal is not None
    assert (equal.mean, equal.seeds) == (0, 2), "a setting that changes nothing"

    study.write_text(STUDY.format(images=image_folder).replace("epochs=1", "epochs=2"))
    with pytest.raises(UserError, match=r"moco-v3-shared-seed0.*--out"):
        run(monkeypatch, capsys, *given)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("[predictors=shared]", "[shared]", "key=value"),
        ("[predictors=shared]", "[seed=3]", "seed"),
        ("per view:", "'shared!':", "shared"),
        ("recipe: demo_fashion_mnist", "recipe: nowhere", "nowhere"),
        ("ks=[3]", "kss=[3]", "kss"),
        ("seeds: 2", "seeds: 0", "seeds"),
        ("[predictors=per_view]", "[predictor=per_view]", "arm 'MoCo v3 · per view': .*predictor"),
        ("[predictors=per_view]", "[batch=0]", "arm 'MoCo v3 · per view': .*batch"),
        ("per view: [", "untrained: [", "untrained"),
    ],
)
def test_mistakes_are_reported_before_anything_runs(
    old: str, new: str, key: str, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    study = tmp_path / "wrong.yaml"
    study.write_text(STUDY.format(images=image_folder).replace(old, new))
    with pytest.raises(UserError, match=key):
        run(monkeypatch, capsys, str(study), "--out", str(tmp_path / "out"), "--device", "cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [("--jobs", "0"), ("--seeds", "0"), ("--per-gpu", "-1"), ("--tag", "a/b")])
def test_options_that_cannot_be_are_refused(
    given: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=given[0]):
        run(monkeypatch, capsys, "demo_scenes", *given)


def test_hours_are_those_of_a_record_of_the_same_settings_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = run(monkeypatch, capsys, "headline_fashion_mnist_small", "--out", "nowhere", "--dry-run")
    assert "at the speed of record headline_fashion_mnist_small-cpu (CPU" in known
    other = run(monkeypatch, capsys, "headline_fashion_mnist", "--out", "nowhere", "--dry-run")
    assert "small-cpu" not in other, "the arms have the same names, but see other images through another network"


def test_a_training_is_known_by_what_its_recipe_sets_not_by_its_place(tmp_path: Path) -> None:
    recipe = (CONFIGS / "pretrain/demo_fashion_mnist.yaml").read_text()

    def claim(folder: str, text: str) -> None:
        file = tmp_path / folder / "recipe.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        study = tmp_path / "study.yaml"
        study.write_text(STUDY.format(images="images").replace("recipe: demo_fashion_mnist", f"recipe: {file}"))
        for training in trainings_of(open_study(str(study)), tmp_path / "out", 1):
            training.claim()

    claim("here", recipe)
    claim("there", f"# moved, with another first line\n{recipe}")
    with pytest.raises(UserError, match=r"moco-v3-shared-seed0 .*another recipe.*--out"):
        claim("there", recipe.replace("epochs: ", "epochs: 1"))


def test_a_record_of_different_data_ranks_nothing(tmp_path: Path) -> None:
    file = next(iter(sorted((ROOT / "records").glob("*.json"))))
    document = json.loads(file.read_text())
    document["measured"][0]["data"] = "other"
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(document))
    with pytest.raises(UserError, match="different data"):
        read_record(changed)


def test_the_page_is_that_of_the_records() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("name", STUDIES)
def test_scores_in_a_header_are_those_of_the_record(name: str) -> None:
    head = " ".join(
        line.removeprefix("#") for line in (FOLDER / f"{name}.yaml").read_text().splitlines() if line[0] == "#"
    )
    head = " ".join(head.split())
    files = re.findall(r"Score \((records/[\w-]+\.json)\)", head)
    assert len(files) == (f"{name}-cpu.json" in [file.name for file in (ROOT / "records").iterdir()])
    for file in files:
        record = read_record(ROOT / file)
        scores = re.findall(r"[+-]?\d+\.\d+ (?:\[.*?\]|± \d+\.\d+)", head.partition("Score")[2])
        assert scores
        shown = summary(record) + course_tables(record)
        assert not [score for score in scores if score not in shown]


@pytest.mark.parametrize("name", STUDIES)
def test_shipped_studies_open(name: str) -> None:
    study = open_study(name)
    assert study.recipe_file.is_file()
    assert all(arm.baseline in {"", "untrained", *(other.name for other in study.arms)} for arm in study.arms)
    assert any(arm.baseline for arm in study.arms)
