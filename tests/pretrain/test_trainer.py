"""pretrain/trainer.py: broken images, monitor, non-finite losses and weights, mistakes; no ending spoils a run."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from core.checkpoints import load_training_state, training_states
from core.config import save_config
from core.data.open import open_images
from core.errors import UserError, run_entry_point
from pretrain.command import main
from pretrain.method import Method
from pretrain.monitoring.monitor import open_monitor
from pretrain.trainer import train
from tests.pretrain.tiny_run import ALONE, assert_equal_bits, leaves, recipe, run, write_recipe
from tests.torchrun import python


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


def test_dry_run_prints_the_plan_and_writes_nothing(image_folder: Path, tmp_path: Path) -> None:
    config = write_recipe(tmp_path / "r.yaml", image_folder)
    given = ["--config", str(config), "--out", str(tmp_path / "run"), "--dry-run", "batch=4", "decode=device"]
    done = python("pretrain/run.py", *given)
    assert done.returncode == 0, done.stderr
    assert "batch       4 = 1 × 4; 400 epochs × 3 steps = 1200 steps" in done.stdout
    assert "adamw, lr 0.05 × 4/256 = 0.0007813, weight decay 0.1, clip 0.5" in done.stdout
    assert "decoding    12 of the first 12 images by torchvision on cpu" in done.stdout
    assert "2 × global 32 px, area 0.25–1, weight 1" in done.stdout
    assert re.search(r"^memory +about [\d.]+ MiB of .* per process: fits", done.stdout, re.MULTILINE)
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
        (["--dry-run", "--data", "scenes", "decode=device"], "decode=workers"),
        (["seed=99999999999999999999"], "seed"),
        (["optim.lr=.nan"], "optim.lr"),
        (["monitor={every_epochs: 1, resize: 32}"], "resize"),
    ],
)
def test_mistakes_exit_with_two_and_one_sentence(
    arguments: list[str], message: str, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = write_recipe(tmp_path / "r.yaml", image_folder)
    given = ["pretrain/run.py", "--config", str(config), "--out", str(tmp_path / "run"), *arguments]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit) as end:
        run_entry_point(main)
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "run").exists()
