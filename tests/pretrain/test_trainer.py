"""pretrain/trainer.py: a killed run goes on bit for bit; a diverging one stops and spoils nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from core.checkpoints import load_training_state, training_states
from core.config import load_config, save_config
from core.data.open import open_images
from core.distributed import Processes
from core.errors import UserError
from pretrain.config import PretrainConfig
from pretrain.method import Method
from pretrain.monitor import open_monitor
from pretrain.trainer import train
from tests.torchrun import ROOT, python

ALONE = Processes(0, 1, torch.device("cpu"))
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


class Killed(BaseException):
    """Stands for the power going off between two steps."""


def recipe(image_folder: Path, *overrides: str) -> PretrainConfig:
    """A ViT with stochastic depth, so that the state of torch's generator matters; 4 epochs of 2 steps."""
    return load_config(
        PretrainConfig,
        None,
        [
            "batch=6", "epochs=4", "schedule.warmup_epochs=1", "drop_path=0.3",
            f"data.source=folder:{image_folder}", "backbone.name=vit_tiny_patch16_224",
            f"backbone.args={VIT}", "projector.widths=[16, 8]", "predictor.widths=[16, 8]",
            "views={global: {count: 2, size: 32}, local: {count: 1, size: 16, photometric: [{blur_kernel: 9}]}}",
            "optim={name: adamw, lr: 0.05, weight_decay: 0.1, clip: 0.5}", *overrides,
        ],
    )  # fmt: skip


def run(config: PretrainConfig, out: Path) -> dict[str, Any]:
    monitor, _ = open_monitor(config, ALONE, workers=0)
    train(config, out, open_images(config.data, "pretrain", config.seed), ALONE, 0, monitor)
    return load_training_state(training_states(out / "checkpoints")[-1])


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key in value for leaf in leaves(value[key])]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def assert_equal_bits(left: dict[str, Any], right: dict[str, Any]) -> None:
    pairs = list(zip(leaves(left), leaves(right), strict=True))
    assert len(pairs) > 100
    for a, b in pairs:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.fixture(scope="module")
def uninterrupted(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    out = tmp_path_factory.mktemp("whole")
    return run(recipe(image_folder), out), (out / "metrics.jsonl").read_text()


@pytest.mark.parametrize("steps", range(8))
def test_killed_before_any_step_and_resumed_equals_uninterrupted(
    steps: int,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: tuple[dict[str, Any], str],
) -> None:
    backward, done = Method.backward, []

    def dying(self: Method, *arguments: Any) -> Any:
        if len(done) == steps:
            raise Killed
        done.append(1)
        return backward(self, *arguments)

    monkeypatch.setattr(Method, "backward", dying)
    with pytest.raises(Killed):
        run(recipe(image_folder), tmp_path)
    monkeypatch.undo()
    torch.rand(17)  # a new process would start with another generator state
    assert_equal_bits(run(recipe(image_folder), tmp_path), uninterrupted[0])
    drop_speed = lambda text: [  # noqa: E731
        {k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in text.splitlines()
    ]
    assert drop_speed((tmp_path / "metrics.jsonl").read_text()) == drop_speed(uninterrupted[1])


RESNET = "backbone={name: resnet18, args: {channels: [8, 8, 8, 16]}, stem: small}"


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
def test_every_kind_of_state_resumes_exactly(
    overrides: list[str], image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = recipe(image_folder, *overrides)
    whole = run(config, tmp_path / "whole")
    backward, done = Method.backward, []

    def dying(self: Method, *arguments: Any) -> Any:
        if len(done) == 5:
            raise Killed
        done.append(1)
        return backward(self, *arguments)

    monkeypatch.setattr(Method, "backward", dying)
    with pytest.raises(Killed):
        run(config, tmp_path / "killed")
    monkeypatch.undo()
    assert_equal_bits(run(config, tmp_path / "killed"), whole)


def test_killed_for_real_and_resumed(image_folder: Path, tmp_path: Path) -> None:
    """SIGKILL at whatever the process is doing; the next one must find a whole state."""
    overrides = ["epochs=40", "checkpoint.log_steps=1"]
    from core.config import save_config

    save_config(recipe(image_folder, *overrides), tmp_path / "r.yaml")
    whole = run(recipe(image_folder, *overrides), tmp_path / "whole")
    command = [
        sys.executable, "pretrain/run.py", "--config", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run"),
        "--device", "cpu", "--workers", "0",
    ]  # fmt: skip
    kills = 0
    for lines in (5, 41, 80):
        process = subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        metrics = tmp_path / "run/metrics.jsonl"
        while process.poll() is None and not (metrics.is_file() and metrics.read_text().count("\n") >= lines):
            time.sleep(0.005)
        if lines < 80:
            process.kill()
            kills += process.wait() == -signal.SIGKILL
    assert process.wait(timeout=60) == 0
    assert kills == 2
    assert_equal_bits(load_training_state(training_states(tmp_path / "run/checkpoints")[-1]), whole)


def test_broken_images_are_replaced_named_and_too_many_end_the_run(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(image_folder / "train", tmp_path / "data")
    bad = tmp_path / "data/cat/3.jpg"
    bad.write_bytes(b"no image")
    config = recipe(tmp_path / "data", "broken_share=0.1", "epochs=2")
    run(config, tmp_path / "one")
    assert capsys.readouterr().err.count(str(bad)) == 1
    (tmp_path / "data/dog/1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 of 12 .*(cat/3|dog/1)\.jpg.*(cat/3|dog/1)\.jpg"):
        run(config, tmp_path / "two")


def test_an_error_in_a_loader_worker_is_one_sentence_too(image_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(image_folder / "train", tmp_path / "data")
    for path in (tmp_path / "data").glob("*/*.jpg"):
        path.write_bytes(b"no image")
    config = write_recipe(tmp_path / "r.yaml", image_folder)
    done = python(
        "pretrain/run.py", "--config", str(config), "--out", str(tmp_path / "run"), "--data",
        f"folder:{tmp_path / 'data'}", "--workers", "1", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "broken" in done.stderr.splitlines()[-1]


def test_monitor_scores_the_labelled_splits(image_folder: Path, tmp_path: Path) -> None:
    monitor = "monitor={every_epochs: 2, k: 3, resize: 32, crop: 32}"
    run(recipe(image_folder, monitor), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["knn_top1"] for line in lines if "knn_top1" in line}
    assert set(scores) == {4, 8}
    assert all(score * 12 / 100 == pytest.approx(round(score * 12 / 100)) for score in scores.values())  # of 12 queries


def test_a_monitor_that_cannot_run_is_off_and_the_plan_has_the_reason(image_folder: Path, tmp_path: Path) -> None:
    few = open_monitor(recipe(image_folder, "monitor={every_epochs: 1}"), ALONE, workers=0)
    assert few[0] is None
    assert re.search(r"off.*monitor\.k.* 20 .* 12 ", few[1])
    flat = recipe(image_folder / "train" / "cat", "monitor={every_epochs: 1, k: 3, resize: 32, crop: 32}")
    assert open_monitor(flat, ALONE, workers=0)[0] is None
    save_config(flat, tmp_path / "flat.yaml")
    command = [
        "pretrain/run.py",
        "--config",
        str(tmp_path / "flat.yaml"),
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
    ]
    for arguments in (["--dry-run"], []):
        done = python(*command, "--workers", "0", *arguments)
        assert done.returncode == 0, done.stderr
        assert re.search(r"monitor +off.*cat", done.stdout)
    assert "knn_top1" not in (tmp_path / "run/metrics.jsonl").read_text()


def test_monitor_does_not_change_the_run(
    image_folder: Path, tmp_path: Path, uninterrupted: tuple[dict[str, Any], str]
) -> None:
    state = run(recipe(image_folder, "monitor={every_epochs: 1, k: 3, resize: 32, crop: 32}"), tmp_path)
    for part in ("online", "target", "optimiser", "rng"):
        for a, b in zip(leaves(state[part]), leaves(uninterrupted[0][part]), strict=True):
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_state_has_no_unsafe_objects_and_the_last_two_stay(uninterrupted: tuple[dict[str, Any], str]) -> None:
    assert {type(leaf) for leaf in leaves(uninterrupted[0])} <= {torch.Tensor, int, float, str, bool, type(None)}


def test_number_of_loader_workers_does_not_matter(
    image_folder: Path, tmp_path: Path, uninterrupted: tuple[dict[str, Any], str]
) -> None:
    config = recipe(image_folder)
    train(config, tmp_path, open_images(config.data, "pretrain", 0), ALONE, workers=2)
    assert_equal_bits(load_training_state(training_states(tmp_path / "checkpoints")[-1]), uninterrupted[0])


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
    said = capsys.readouterr().out
    assert "optim.lr: 0.05 → 0.01" in said
    assert "broken_share: 0.01 → 0.5" in said
    (tmp_path / "data/cat/0.jpg").unlink()
    with pytest.raises(UserError, match=r"images.*\b12\b.*\b11\b"):
        run(recipe(tmp_path / "data"), tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward, calls = Method.backward, []

    def diverging(self: Method, *arguments: Any) -> Any:
        calls.append(1)
        losses = backward(self, *arguments)
        return {name: loss * float("nan") for name, loss in losses.items()} if len(calls) == 6 else losses

    monkeypatch.setattr(Method, "backward", diverging)
    with pytest.raises(UserError, match=r"finite.* step 6\b"):
        run(recipe(image_folder), tmp_path)
    states = training_states(tmp_path / "checkpoints")
    assert [path.name for path in states] == ["step_000000002.pt", "step_000000004.pt"]


def test_weights_that_are_not_finite_are_never_saved(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = torch.optim.AdamW.step, []

    def exploding(self: torch.optim.AdamW, *arguments: Any) -> Any:
        calls.append(1)
        step(self, *arguments)
        if len(calls) == 4:
            with torch.no_grad():
                self.param_groups[0]["params"][0].fill_(float("inf"))

    monkeypatch.setattr(torch.optim.AdamW, "step", exploding)
    with pytest.raises(UserError, match=r"weights.*finite.* step 4\b"):
        run(recipe(image_folder), tmp_path)
    assert [path.name for path in training_states(tmp_path / "checkpoints")] == ["step_000000002.pt"]


def test_a_damaged_state_is_named(image_folder: Path, tmp_path: Path) -> None:
    run(recipe(image_folder, "epochs=2"), tmp_path)
    newest = training_states(tmp_path / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.raises(UserError, match=newest.name):
        run(recipe(image_folder, "epochs=2"), tmp_path)


def write_recipe(path: Path, image_folder: Path) -> Path:
    from core.config import save_config

    save_config(recipe(image_folder, "epochs=400", "checkpoint.log_steps=1"), path)
    return path


@pytest.mark.parametrize(
    ("number", "workers", "group"),
    [(signal.SIGTERM, 0, False), (signal.SIGINT, 0, False), (signal.SIGTERM, 2, True), (signal.SIGINT, 2, True)],
)
def test_a_signal_saves_the_state_and_the_same_command_goes_on(
    number: signal.Signals, workers: int, group: bool, image_folder: Path, tmp_path: Path
) -> None:
    command = [
        "pretrain/run.py", "--config", str(write_recipe(tmp_path / "r.yaml", image_folder)),
        "--out", str(tmp_path / "run"), "--device", "cpu", "--workers", str(workers), "checkpoint.every_epochs=400",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip
    metrics = tmp_path / "run/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.is_file() and metrics.read_text().count("\n") >= 3):
        assert process.poll() is None, process.stderr.read()
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


def test_dry_run_prints_the_plan_and_writes_nothing(image_folder: Path, tmp_path: Path) -> None:
    config = write_recipe(tmp_path / "r.yaml", image_folder)
    done = python("pretrain/run.py", "--config", str(config), "--out", str(tmp_path / "run"), "--dry-run", "batch=4")
    assert done.returncode == 0, done.stderr
    assert "batch       4 = 1 × 4; 400 epochs × 3 steps = 1200 steps" in done.stdout
    assert "adamw, lr 0.05 × 4/256 = 0.0007813, weight decay 0.1, clip 0.5" in done.stdout
    assert "2 × global 32 px, area 0.25–1, weight 1" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optim.lrr=1"], "optim.lrr"),
        (["--data", "folder:/nowhere"], "/nowhere"),
        (["batch=5000"], "batch 5000"),
        (["backbone.name=resnet19"], "'resnet19'"),
        (["views.global.count=1", "views.local=null"], "views.local"),
        (["--device", "cuda:9"], "cuda:9"),
        (["--workers", "-1"], "--workers"),
        (["--dry-run", "views.local.size=17"], "views.local of 17 px"),
        (["--dry-run", "backbone.args.num_heads=0"], "vit_tiny_patch16_224"),
        (["batch=1"], "batch"),
        (["seed=99999999999999999999"], "seed"),
        (["optim.lr=.nan"], "optim.lr"),
        (["monitor={every_epochs: 1, resize: 32}"], "resize"),
    ],
)
def test_mistakes_exit_with_two_and_one_sentence(
    arguments: list[str], message: str, image_folder: Path, tmp_path: Path
) -> None:
    config = write_recipe(tmp_path / "r.yaml", image_folder)
    done = python("pretrain/run.py", "--config", str(config), "--out", str(tmp_path / "run"), *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
