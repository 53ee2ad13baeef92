"""evaluate/linear.py as users run it: one process and two, killed and resumed, right and wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from torch import Tensor

from core.config import load_config
from core.errors import UserError, run_entry_point
from evaluate.common.protocol import full_name, protocol_file
from evaluate.linear import main
from evaluate.probes.accuracy import Accuracies
from evaluate.probes.linear.head_grid import HeadGrid
from evaluate.probes.linear.probe import PROBE
from evaluate.probes.linear.protocol import LinearConfig
from evaluate.probes.linear.summary import summary
from tests.torchrun import ROOT, Process, python, torchrun

BACKBONE = "timm:resnet18(channels=[8,8,16,24], stem=small)"
OWN = """
name: own
features: {transform: {resize: 36, crop: 32}, batch: 3, broken_share: 0.2}
lrs: [0.01, 0.1]
batch: 6
epochs: 3
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def protocol(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(OWN)
    return path


def arguments(image_folder: Path, protocol: Path, *more: str) -> list[str]:
    data = f"folder:{image_folder}"
    return ["--ckpt", BACKBONE, "--config", str(protocol), "--data", data, "--workers", "0", *more]


def run(monkeypatch: pytest.MonkeyPatch, *given: str) -> None:
    monkeypatch.setattr(sys, "argv", ["linear.py", *given])
    main()


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    "settings",
    [
        ["views=cached", "standardise=train"],
        ["views=augmented", "standardise=batch_norm", "optim.name=lars", "optim.weight_decay=0.01"],
    ],
)
def test_two_processes_equal_one(
    image_folder: Path, protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str]
) -> None:
    run(monkeypatch, *arguments(image_folder, protocol, "--out", str(tmp_path / "one"), *settings))
    script = ROOT / "evaluate" / "linear.py"
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "another"))  # the two processes fill their own
    done = torchrun(script, *arguments(image_folder, protocol, "--out", str(tmp_path / "two"), *settings))
    assert done.returncode == 0, done.stderr
    assert len(re.findall("^protocol  own", done.stdout, re.M)) == 1
    one, two = result(tmp_path / "one"), result(tmp_path / "two")
    assert one["metrics"] == two["metrics"]
    heads = [load_file(tmp_path / name / "head.safetensors") for name in ("one", "two")]
    assert np.abs(heads[0]["weight"]).max() > 0.01
    for key in ("weight", "bias", "mean", "factor"):
        np.testing.assert_allclose(heads[0][key], heads[1][key], atol=1e-5)
    assert ("training" in one["settings"]["notes"][0]) == ("standardise=train" in settings)


def test_the_result_says_all(
    image_folder: Path, protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(monkeypatch, *arguments(image_folder, protocol, "--out", str(out), "views=cached"))
    found = result(out)
    assert found["protocol"] == "own (modified: views=cached)"
    assert {part: facts["images"] for part, facts in found["data"].items()} == {"train": 12, "val": 12}
    metrics = found["metrics"]
    assert [(head["lr"], head["input"]) for head in metrics["heads"]] == [(0.01, "average pool"), (0.1, "average pool")]
    best = max(metrics["heads"], key=lambda head: head["top1"])
    assert (metrics["top1"], metrics["mean_per_class"], metrics["top5"]) == (best["top1"], best["mean_per_class"], 100)
    assert metrics["head"] == f"average pool, lr {best['lr']:g}"
    assert metrics["best_epoch_top1"] >= metrics["top1"]
    assert not (out / "unfinished.pt").exists()
    again = tmp_path / "again"
    run(monkeypatch, *arguments(image_folder, protocol, "--out", str(again), "views=cached"))
    assert result(again)["metrics"] == metrics


def test_the_best_head_is_of_the_last_epoch_and_the_best_epoch_is_reported_separately() -> None:
    def scores(*top1: float) -> Accuracies:
        return Accuracies(top1, tuple(value + 5 for value in top1), tuple(value - 1 for value in top1))

    heads = [{"input": "x", "lr": lr} for lr in (0.1, 0.2, 0.3)]
    found = summary([scores(10, 80, 30), scores(70, 20, 70), scores(60, 50, 60)], heads)
    assert (found["top1"], found["top5"], found["mean_per_class"], found["head_number"]) == (60, 65, 59, 0)
    assert (found["best_epoch_top1"], found["best_epoch"], found["best_epoch_head"]) == (80, 1, "x, lr 0.2")
    assert [(row["best_epoch"], row["best_epoch_top1"]) for row in found["heads"]] == [(2, 70), (1, 80), (2, 70)]
    best = summary([scores(10, 80, 30), scores(70, 20, 70), scores(60, 50, 60)], heads, "best_epoch")
    assert (best["top1"], best["top5"], best["mean_per_class"], best["head_number"]) == (80, 85, 79, 1)
    assert [(row["top1"], row["last_epoch_top1"]) for row in best["heads"]] == [(70, 60), (80, 50), (70, 60)]


def test_the_last_batch_of_an_epoch_and_the_best_epoch(
    image_folder: Path, protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads trained on 12 images in batches of 5, 5 and 2 are torch's own, with the mean over each batch."""
    out = tmp_path / "out"
    settings = ["views=cached", "batch=5", "last_batch=keep", "report=best_epoch", "epochs=3", "lrs=[0.1]"]
    totals: list[int] = []
    original = HeadGrid.step

    def step(self: HeadGrid, features: Tensor, labels: Tensor, factor: float, total: int) -> None:
        totals.append(total)
        assert len(labels) == total
        original(self, features, labels, factor, total)

    monkeypatch.setattr(HeadGrid, "step", step)
    run(monkeypatch, *arguments(image_folder, protocol, "--out", str(out), *settings))
    metrics = result(out)["metrics"]
    assert totals == [5, 5, 2] * 3
    assert metrics["top1"] == metrics["best_epoch_top1"]


def test_a_killed_run_resumes_to_the_same_numbers(
    image_folder: Path, protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["epochs=120", "standardise=batch_norm", "views=cached"]
    run(monkeypatch, *arguments(image_folder, protocol, "--out", str(tmp_path / "whole"), *settings))
    given = arguments(image_folder, protocol, "--out", str(tmp_path / "cut"), *settings)
    process = Process("evaluate/linear.py", *given)
    state = tmp_path / "cut" / "unfinished.pt"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.exists()
    assert not (tmp_path / "cut" / "result.json").exists()
    with pytest.raises(UserError, match="unfinished"):
        run(monkeypatch, *given, "lrs=[0.01,0.2]")
    done = python("evaluate/linear.py", *given)
    assert done.returncode == 0, done.stderr
    epoch = re.search(r"epoch (\d+) of 120", done.stdout)
    assert epoch is not None
    assert 1 <= int(epoch.group(1)) < 120
    assert result(tmp_path / "cut")["metrics"] == result(tmp_path / "whole")["metrics"]
    for name, expected in load_file(tmp_path / "whole" / "head.safetensors").items():
        assert np.array_equal(load_file(tmp_path / "cut" / "head.safetensors")[name], expected)
    assert not state.exists()


def test_broken_training_images_are_replaced_and_named(
    image_folder: Path, protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    import shutil

    shutil.copytree(image_folder, tmp_path / "images")
    (tmp_path / "images/train/cat/2.jpg").write_bytes(b"no image")
    run(monkeypatch, *arguments(tmp_path / "images", protocol, "--out", str(tmp_path / "out")))
    assert result(tmp_path / "out")["data"]["train"]["broken"] == [str(tmp_path / "images/train/cat/2.jpg")]
    assert str(tmp_path / "images/train/cat/2.jpg") in capsys.readouterr().out


def test_every_protocol_loads_under_its_own_name() -> None:
    files = sorted(ROOT.glob("configs/evaluate/linear_*.yaml"))
    assert {file.stem.removeprefix("linear_") for file in files} >= {
        *("dinov2_grid", "mulan_r50", "mulan_vit_s", "mulan_vit_b", "dino_vit_s", "dino_vit_b", "dino_r50"),
        *("mocov3_r50", "simsiam", "mae", "scenes_64px", "fashion_mnist_32px"),
    }
    configs = {file.stem: load_config(LinearConfig, file) for file in files}
    for file in files:
        assert configs[file.stem].name == file.stem == full_name(configs[file.stem], file, PROBE.performance_keys)
        assert protocol_file(file.stem, "linear") == file
    grid = configs["linear_dinov2_grid"]
    assert len(grid.lrs) * len(grid.blocks) * len(grid.poolings) == 52
    assert (min(grid.used_lrs()), max(grid.used_lrs())) == pytest.approx((4e-5, 0.4))
    mulan = configs["linear_mulan_r50"]
    assert (mulan.used_lrs(), mulan.batch, mulan.epochs, mulan.standardise) == ((0.005,), 512, 100, "train")
    assert configs["linear_simsiam"].used_lrs() == pytest.approx((1.6,))
    assert full_name(mulan, protocol_file("linear_mulan_r50", "linear"), PROBE.performance_keys) == "linear_mulan_r50"


def test_help_is_quick() -> None:
    before = os.times()
    done = python("evaluate/linear.py", "--help")
    assert done.returncode == 0
    assert "evaluate/linear.py --ckpt" in done.stdout
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["poolings=[cls]"], "blocks=[1] poolings=[auto]"),
        (["lrs=[]"], "lrs"),
        (["features.pooling=avg"], "features.pooling"),
        (["schedule.warmup_epochs=3"], "schedule.warmup_epochs 3"),
        (["lr=0.1"], "lrs"),
        (["--data", "folder:/nowhere"], "/nowhere"),
        (["--ckpt", "nowhere"], "nowhere"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    image_folder: Path, protocol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], more: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["linear.py", *arguments(image_folder, protocol, "--out", str(tmp_path)), *more])
    with pytest.raises(SystemExit) as stopped:
        run_entry_point(main)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
