"""Two processes under torchrun: signals, a killed rank and its restart, timed states, and mistakes reported once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.checkpoints import load_training_state, training_states
from core.data.order import check_batch
from core.errors import UserError
from tests.reliability.tiny_runs import last_state, metrics, run_here, same_bits, tiny, write_images, write_recipe
from tests.torchrun import ROOT, python, torchrun

_OVERRIDES = ["epochs=30", "compute.sync_bn=true", "monitor={every_epochs: 10, k: 3, resize: 32, crop: 32}"]


def start(recipe: Path, out: Path, *launcher: str) -> subprocess.Popen[str]:
    """A run of two gloo processes in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *launcher,
         "pretrain/run.py", "--config", str(recipe), "--out", str(out), "--device", "cpu", "--workers", "0"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def wait_for_lines(process: subprocess.Popen[str], out: Path, count: int) -> None:
    file, deadline = out / "metrics.jsonl", time.monotonic() + 120
    while not (file.is_file() and file.read_bytes().count(b"\n") >= count):
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ranks_of(launcher: int) -> list[int]:
    """The processes that the launcher started, rank 0 first."""
    found = {}
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        settings = Path(f"/proc/{child}/environ").read_bytes().decode(errors="replace").split("\0")
        for setting in settings:
            if setting.startswith("RANK="):
                found[int(setting.removeprefix("RANK="))] = int(child)
    return [found[rank] for rank in sorted(found)]


@pytest.fixture(scope="module")
def whole(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last state of two processes that nobody disturbed."""
    root = tmp_path_factory.mktemp("whole")
    process = start(write_recipe(root / "r.yaml", image_folder, *_OVERRIDES), root / "run")
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-3000:]
    return last_state(root / "run")


@pytest.mark.slow
def test_a_launcher_that_is_stopped_saves_and_the_same_command_resumes(
    image_folder: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    recipe, out = write_recipe(tmp_path / "r.yaml", image_folder, *_OVERRIDES), tmp_path / "run"
    process = start(recipe, out)
    wait_for_lines(process, out, 5)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert "same command" in errors
    stopped = last_state(out)["step"]
    assert stopped == metrics(out)[-1]["step"]
    assert 5 <= stopped < 60
    again = start(recipe, out)
    printed, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors[-3000:]
    assert f"step {stopped} of 60" in printed
    assert same_bits(last_state(out), whole)
    assert [line["step"] for line in metrics(out) if "loss" in line] == list(range(1, 61))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_started_again_and_the_run_ends_as_if_nothing_had_been(
    rank: int, image_folder: Path, tmp_path: Path, whole: dict[str, Any]
) -> None:
    recipe, out = write_recipe(tmp_path / "r.yaml", image_folder, *_OVERRIDES), tmp_path / "run"
    process = start(recipe, out, "--max-restarts=2")
    wait_for_lines(process, out, 7)
    os.kill(ranks_of(process.pid)[rank], signal.SIGKILL)
    printed, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-3000:]
    assert re.search(r"resum\w+ .*step \d+ of 60", printed)
    assert same_bits(last_state(out), whole)
    assert [line["step"] for line in metrics(out) if "loss" in line] == list(range(1, 61))


def test_a_mistake_is_reported_once_and_without_a_traceback(image_folder: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", image_folder)
    done = torchrun(Path("pretrain/run.py"), "--config", str(recipe), "--out", str(tmp_path / "run"), "batch=7")
    assert done.returncode != 0
    advice = [line for line in done.stderr.splitlines() if "error: " in line]
    assert len(advice) == 1
    assert advice[0].startswith("error: batch 7 ")
    traced = [line for line in done.stderr.splitlines() if line.strip().startswith("File")]
    assert not [line for line in traced if f"{ROOT}/pretrain/" in line or f"{ROOT}/core/" in line]  # the launcher's own


def test_more_processes_than_images_are_refused(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"batch.*\b4\b.*\b3\b.*\bfew\b"):
        check_batch(4, 3, "few", 2)
    recipe = write_recipe(tmp_path / "r.yaml", image_folder, "batch=2")
    done = torchrun(Path("pretrain/run.py"), "--config", str(recipe), "--out", str(tmp_path / "run"))
    assert done.returncode != 0
    assert re.search(r"error: .*batch 2\b.*batch norm", done.stderr)


def test_knn_with_more_processes_than_images_gives_what_one_process_gives(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    for path in [*images.glob("val/*/*.jpg")]:
        if path.stem != "0":
            path.unlink()  # two queries for three processes
    given = ["--ckpt", "timm:resnet18(channels=[8,8,16,24], stem=small)", "--protocol", "knn_dino", "--data",
             f"folder:{images}", "--workers", "0", "--device", "cpu", "ks=[1,3]", "features.transform.resize=32",
             "features.transform.crop=32"]  # fmt: skip
    alone = python("evaluate/knn.py", *given, "--out", str(tmp_path / "one"))
    assert alone.returncode == 0, alone.stderr
    three = torchrun(Path("evaluate/knn.py"), *given, "--out", str(tmp_path / "three"), processes=3)
    assert three.returncode == 0, three.stderr
    one, other = (json.loads((tmp_path / name / "result.json").read_text())["metrics"] for name in ("one", "three"))
    assert one == other


def test_states_are_written_every_few_minutes(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that goes a minute a step: with every_minutes=2.5 a state after steps 3, 6, 9, and at the end."""
    from pretrain import state, trainer

    steps: list[int] = []
    save: Callable[..., None] = state.save

    def noted(*given: Any) -> None:
        steps.append(given[-2])
        save(*given)

    class Clock:
        now = 0.0

        @classmethod
        def monotonic(cls) -> float:
            return cls.now

        monkeypatch.setattr(state, "save", noted)

    monkeypatch.setattr(trainer, "time", Clock)
    monkeypatch.setattr(trainer.StepMetrics, "add", _a_minute_each(Clock, trainer.StepMetrics.add))
    overrides = ["epochs=5", "checkpoint.every_epochs=5", "checkpoint.every_minutes=2.5", "checkpoint.log_steps=20"]
    timed = run_here(tiny(image_folder, *overrides), tmp_path / "timed")
    assert steps == [3, 6, 9, 10]
    assert [path.name for path in training_states(tmp_path / "timed/checkpoints")] == [
        "step_000000009.pt", "step_000000010.pt",
    ]  # fmt: skip
    monkeypatch.undo()
    whole = run_here(tiny(image_folder, *overrides[:2]), tmp_path / "whole")
    assert same_bits({**timed, "config": None}, {**whole, "config": None})
    assert load_training_state(training_states(tmp_path / "timed/checkpoints")[0])["step"] == 9


def _a_minute_each(clock: Any, add: Callable[..., None]) -> Callable[..., None]:
    def with_time(self: Any, *given: Any) -> None:
        clock.now += 60
        add(self, *given)

    return with_time
