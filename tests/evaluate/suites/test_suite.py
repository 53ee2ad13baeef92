"""evaluate/suite.py as people run it, on tiny data: skips, reruns, failures, names, and commands for a cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.errors import run_entry_point
from evaluate.suite import main
from evaluate.tables.results import read_names

ONE, TWO = ("timm:resnet18(channels=[8,8,16,16],stem=small)", "timm:resnet18(channels=[8,8,8,16],stem=small)")
SMALL = "features.transform.resize=36, features.transform.crop=32"
SUITE = f"""
evaluations:
  - {{run: knn, protocol: knn_scenes_64px, data: "folder:{{imagenet}}", settings: ["ks=[3]", {SMALL}]}}
  - {{run: linear, protocol: linear_scenes_64px, data: "folder:{{imagenet}}", settings: [batch=4, epochs=1, {SMALL}]}}
  - {{run: segment, protocol: ade20k_upernet_r50_160k, data: "{{ade20k}}"}}
"""


@dataclass
class Done:
    code: int
    stdout: str
    stderr: str


class Command:
    """The suite in this process, its runs in processes of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> Done:
        self._monkeypatch.setattr(sys, "argv", ["suite.py", *arguments])
        code = 0
        try:
            run_entry_point(main)
        except SystemExit as stopped:
            code = int(str(stopped.code))
        printed = self._capsys.readouterr()
        return Done(code, printed.out, printed.err)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(SUITE)
    return file


def test_only_what_is_missing_is_run(suite: Path, image_folder: Path, tmp_path: Path, command: Command) -> None:
    given = [
        "--suite", str(suite), "--ckpts", f"one={ONE}", TWO, "--imagenet", str(image_folder),
        "--results", str(tmp_path / "results"), "--jobs", "2", "--device", "cpu",
    ]  # fmt: skip
    first = command(*given)
    assert first.code == 0, first.stdout + first.stderr
    assert re.search(r"ade20k_upernet_r50_160k: .*--ade20k ROOT", first.stdout)
    assert "4 runs, 0 done" in first.stdout
    assert first.stdout.count("done      ") == 4
    table = [line for line in first.stdout.splitlines() if line.startswith("|")]
    assert table[0].count("‡") == 2
    assert [row.split(" | ")[0] for row in table[2:]] == [
        "| one", "| resnet18(channels=[8, 8, 8, 16], stem=small), random initialisation"
    ]  # fmt: skip
    results = sorted((tmp_path / "results").rglob("result.json"))
    assert len(results) == 4
    for path in results:
        assert "result: " in (path.parent / "log.txt").read_text()

    gone = results[1]
    title = json.loads(gone.read_text())["protocol"]
    before = {path: path.stat().st_mtime_ns for path in results if path != gone}
    gone.unlink()
    again = command(*given)
    assert again.code == 0, again.stdout + again.stderr
    assert "4 runs, 3 done" in again.stdout
    assert "data has changed" in again.stdout
    assert "data has changed" not in first.stdout
    starts = [line for line in again.stdout.splitlines() if line.startswith("starts")]
    assert len(starts) == 1
    assert starts[0].startswith(f"starts    {title}")
    assert gone.is_file()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [line for line in again.stdout.splitlines() if line.startswith("|")] == table

    other_seed = command(*given, "--seeds", "2", "--dry-run")
    assert "8 runs, 4 done" in other_seed.stdout
    elsewhere = command(*given[:5], "--imagenet", str(tmp_path), *given[7:], "--dry-run")
    assert "4 runs, 0 done" in elsewhere.stdout


def test_a_bad_result_stops_nothing(suite: Path, image_folder: Path, tmp_path: Path, command: Command) -> None:
    suite.write_text(
        f"evaluations: [{{run: knn, protocol: knn_scenes_64px, data: 'folder:{image_folder}', "
        f"settings: ['ks=[3]', {SMALL}]}}]"
    )
    bad = tmp_path / "results/old/result.json"
    bad.parent.mkdir(parents=True)
    bad.write_text('{"half": ')
    done = command("--suite", str(suite), "--ckpts", ONE, "--results", str(tmp_path / "results"), "--device", "cpu")
    assert done.code == 0, done.stderr
    assert [str(bad) in line for line in done.stderr.splitlines()] == [True, True]
    assert "| resnet18(channels=[8, 8, 16, 16], stem=small), random initialisation |" in done.stdout


def test_names_outlast_an_emitted_suite(tmp_path: Path, command: Command) -> None:
    given = [
        "--suite", "demo_knn_scenes", "--ckpts", f"mine={ONE}", "pixels", "--results", str(tmp_path / "r"),
        "--emit",
    ]  # fmt: skip
    assert command(*given, "--dry-run").code == 0
    assert not (tmp_path / "r").exists()
    assert command(*given).code == 0
    assert read_names(tmp_path / "r") == {
        "resnet18(channels=[8, 8, 16, 16], stem=small), random initialisation": "mine",
    }


def test_an_emitted_line_fails_where_its_run_does(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "torchrun").write_text("#!/bin/sh\necho no GPU; exit 3\n")
    (programs / "torchrun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    emitted = command(
        "--suite", "demo_knn_scenes", "--ckpts", ONE, "--emit", "--results", str(tmp_path / "r")
    )  # fmt: skip
    done = subprocess.run(["bash", "-c", emitted.stdout], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "no GPU\n")
    assert next((tmp_path / "r").rglob("log.txt")).read_text() == "no GPU\n"


def test_a_failed_run_stops_nothing_and_is_reported_at_the_end(
    suite: Path, image_folder: Path, tmp_path: Path, command: Command
) -> None:
    suite.write_text(
        "evaluations:\n"
        f"  - {{run: knn, protocol: knn_scenes_64px, data: 'folder:/nowhere', settings: ['ks=[3]', {SMALL}]}}\n"
        f"  - {{run: knn, protocol: knn_scenes_64px, data: 'folder:{image_folder}', settings: ['ks=[3]', {SMALL}]}}\n"
    )
    results = tmp_path / "results"
    done = command("--suite", str(suite), "--ckpts", ONE, "--results", str(results), "--device", "cpu")
    assert done.code == 1
    assert "FAILED    knn_scenes_64px" in done.stdout
    last = done.stderr.splitlines()
    assert last[-1].startswith("1 failed; ")
    assert "error: " in last[-2]
    assert "/nowhere" in last[-2]
    assert "log.txt)" in last[-2]
    assert len(list(results.rglob("result.json"))) == 1
    assert "| resnet18(channels=[8, 8, 16, 16], stem=small), random initialisation |" in done.stdout


def test_commands_for_torchrun(tmp_path: Path, command: Command) -> None:
    emitted = command(
        "--suite", "imagenet_r50", "--ckpts", ONE, "--coco", "/data/coco", "--emit",
        "--gpus", "4", "--results", str(tmp_path), "--seeds", "2",
    )  # fmt: skip
    assert emitted.code == 0, emitted.stderr
    lines = [line for line in emitted.stdout.splitlines() if line.startswith("mkdir")]
    assert len(lines) == 4
    assert "torchrun --standalone --nproc-per-node=4 evaluate/coco.py --ckpt" in lines[0]
    assert "--data coco:/data/coco" in lines[0]
    plain = command("--suite", "voc", "--ckpts", ONE, "--voc", "/data/voc", "--emit", "--results", str(tmp_path))
    assert "--nproc-per-node=8 evaluate/coco.py --ckpt 'timm:resnet18(channels=[8,8,16,16],stem=small)'" in plain.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ckpts", "random"], "--ckpts random"),
        (["--ckpts", ONE, "--suite", "nothing"], "'nothing'"),
        (["--ckpts", ONE, "--suite", "imagenet_r50"], "imagenet_r50"),
        (["--ckpts", "runs/nowhere"], "runs/nowhere"),
        (["--ckpts", ONE, "--jobs", "0"], "--jobs"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], sentence: str, tmp_path: Path, command: Command) -> None:
    done = command(*arguments, "--results", str(tmp_path))
    assert done.code == 2
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
