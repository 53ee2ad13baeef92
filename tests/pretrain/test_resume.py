"""pretrain/state.py: a killed run resumes bit for bit, in its own folder, with its own recipe and data."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from core.checkpoints import load_training_state, save_training_state, training_states
from core.config import save_config
from core.errors import UserError
from tests.pretrain.tiny_run import RESNET, assert_equal_bits, recipe, run, run_until_killed, write_recipe
from tests.torchrun import Process


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 7])  # before any state, with one, right after one, before the last
def test_killed_before_any_step_and_resumed_equals_uninterrupted(
    steps: int,
    image_folder: Path,
    tmp_path: Path,
    uninterrupted: tuple[dict[str, Any], str],
) -> None:
    run_until_killed(recipe(image_folder), tmp_path, steps)
    torch.rand(17)  # a new process would start with another generator state
    assert_equal_bits(run(recipe(image_folder), tmp_path), uninterrupted[0])
    drop_speed = lambda text: [  # noqa: E731
        {k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in text.splitlines()
    ]
    assert drop_speed((tmp_path / "metrics.jsonl").read_text()) == drop_speed(uninterrupted[1])


@pytest.mark.parametrize(
    "overrides",
    [
        ["compute.precision=bf16"],
        ["compute.precision=fp16"],
        [RESNET, "drop_path=0.1", "compute.backward=packed", "optim={name: lars, lr: 4.0}"],
        [RESNET, "objective={name: mocov3, temperature: 0.2}", "predictors=shared"],
        [RESNET, "objective.name=simsiam", "target.kind=stop_gradient", "schedule.granularity=epoch",
         "optim={name: sgd, lr: 0.5, constant_predictor_lr: true, decay_norms: true}"],
    ],
    ids=["bf16", "fp16", "lars-packed", "mocov3-shared", "simsiam"],
)  # fmt: skip
def test_every_kind_of_state_resumes_exactly(overrides: list[str], image_folder: Path, tmp_path: Path) -> None:
    config = recipe(image_folder, "epochs=3", *overrides)
    whole = run(config, tmp_path / "whole")
    run_until_killed(config, tmp_path / "killed", 3)
    assert_equal_bits(run(config, tmp_path / "killed"), whole)


def test_a_run_from_before_losses_had_options_resumes_exactly(
    image_folder: Path, tmp_path: Path, uninterrupted: tuple[dict[str, Any], str]
) -> None:
    run_until_killed(recipe(image_folder), tmp_path, 5)
    state = load_training_state(training_states(tmp_path / "checkpoints")[-1])
    del state["losses"], state["config"]["auxiliary"], state["config"]["objective"]["options"]
    for key in ("decay_end", "clip_mode", "freeze"):
        del state["config"]["optim"][key]
    for view in state["config"]["views"].values():
        del view["placement"]
    save_training_state(tmp_path / "checkpoints", state["step"], state)
    assert_equal_bits(run(recipe(image_folder), tmp_path), uninterrupted[0])


def test_killed_for_real_and_resumed(image_folder: Path, tmp_path: Path) -> None:
    """SIGKILL at whatever the process is doing; the next one must find a whole state."""
    overrides = ["epochs=20", "checkpoint.log_steps=1"]

    save_config(recipe(image_folder, *overrides), tmp_path / "r.yaml")
    whole = run(recipe(image_folder, *overrides), tmp_path / "whole")
    command = [
        "pretrain/run.py", "--config", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run"),
        "--device", "cpu", "--workers", "0",
    ]  # fmt: skip
    kills = 0
    for lines in (5, 21, 40):
        process = Process(*command)
        metrics = tmp_path / "run/metrics.jsonl"
        while process.poll() is None and not (metrics.is_file() and metrics.read_text().count("\n") >= lines):
            time.sleep(0.02)
        if lines < 40:
            process.kill()
            kills += process.wait() == -signal.SIGKILL
    assert process.wait(timeout=60) == 0
    assert kills == 2
    assert_equal_bits(load_training_state(training_states(tmp_path / "run/checkpoints")[-1]), whole)


def test_another_config_in_the_same_folder_is_refused(image_folder: Path, tmp_path: Path) -> None:
    run(recipe(image_folder, "epochs=2"), tmp_path)
    with pytest.raises(UserError, match=r"\(epochs: 2 → 3\)"):
        run(recipe(image_folder, "epochs=3"), tmp_path)


def test_exports_whose_states_are_gone_are_not_lost_to_another_recipe(image_folder: Path, tmp_path: Path) -> None:
    run(recipe(image_folder, "epochs=2"), tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(UserError, match=r"\(epochs: 2 → 3\)"):
        run(recipe(image_folder, "epochs=3"), tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    run(recipe(image_folder, "epochs=2"), tmp_path)
    assert training_states(tmp_path / "checkpoints")


def test_what_helps_may_change_on_the_way_and_the_data_may_not(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(image_folder / "train", tmp_path / "data")
    run(recipe(tmp_path / "data"), tmp_path / "run")
    run(recipe(tmp_path / "data", "optim.lr=0.01", "broken_share=0.5"), tmp_path / "run")
    printed = capsys.readouterr().out
    assert "optim.lr: 0.05 → 0.01" in printed
    assert "broken_share: 0.01 → 0.5" in printed
    (tmp_path / "data/cat/0.jpg").unlink()
    with pytest.raises(UserError, match=r"images.*\b12\b.*\b11\b"):
        run(recipe(tmp_path / "data"), tmp_path / "run")


def test_a_damaged_state_is_named(image_folder: Path, tmp_path: Path) -> None:
    run(recipe(image_folder, "epochs=2"), tmp_path)
    newest = training_states(tmp_path / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(UserError, match=newest.name):
        run(recipe(image_folder, "epochs=2"), tmp_path)


@pytest.mark.parametrize(
    ("number", "workers", "group"),
    [(signal.SIGTERM, 0, False), (signal.SIGINT, 0, False), (signal.SIGTERM, 2, True), (signal.SIGINT, 2, True)],
)
def test_a_signal_saves_the_state_and_the_same_command_resumes(
    number: signal.Signals, workers: int, group: bool, image_folder: Path, tmp_path: Path
) -> None:
    command = [
        "pretrain/run.py", "--config", str(write_recipe(tmp_path / "r.yaml", image_folder)),
        "--out", str(tmp_path / "run"), "--device", "cpu", "--workers", str(workers), "checkpoint.every_epochs=400",
    ]  # fmt: skip
    process = Process(*command)
    metrics = tmp_path / "run/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.is_file() and metrics.read_text().count("\n") >= 3):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, number) if group else process.send_signal(number)  # torchrun and Slurm signal the group
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "same command" in errors
    (state,) = training_states(tmp_path / "run/checkpoints")
    step = load_training_state(state)["step"]
    assert step == len(metrics.read_text().splitlines())
    assert 3 <= step < 800
