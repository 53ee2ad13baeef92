"""Networks that a task's images don't fit, given to every front door as commands: one sentence and exit code 2."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from converters.engines import detectron2_compat
from core.errors import run_entry_point
from tests.evaluate.dense.small import SCENES

detectron2_compat.install_hook()
FOUR_CHANNELS = "timm:resnet18(channels=[4,4,4,4], in_chans=4, mean=[.5,.5,.5,.5], std=[.5,.5,.5,.5])"
PATCHES_OF_14 = (
    "timm:vit_tiny_patch16_224(depth=1, embed_dim=24, num_heads=2, patch_size=14, img_size=28, reg_tokens=1)"
)
TINY = ["data.scenes.train=8", "data.scenes.test=4", "data.scenes.size=32", "data.scenes.radius=[0.25,0.4]"]
DOORS = {
    "evaluate.knn": (["--protocol", "knn_scenes_64px", "--data", "FOLDER"], r"features\.transform\.crop to 56 or 70"),
    "evaluate.linear": (["--protocol", "linear_scenes_64px", "--data", "FOLDER"], r"transform\.crop to 56 or 70"),
    "evaluate.finetune": (
        ["--protocol", "finetune_scenes_64px_10pct", "--data", "FOLDER", "share=1.0", "batch=4"],
        r"transform\.crop to 56 or 70",
    ),
    "evaluate.probes.command": (["segment_linear", *SCENES], r"features\.size"),
    "evaluate.segment": (["network.backbone=any", "network.taps=[0]", *TINY], r"crop\.size to 84 or 98"),
    "evaluate.detection.run": (TINY, r"detector\.design=vit_"),
    "pretrain.command": (
        ["--config", "configs/pretrain/demo_scenes.yaml", "data.source=FOLDER", "batch=4"],
        r"views\.global\.size",
    ),
}
"""Module with `main` -> arguments beside the checkpoint, and the way out for patches that don't divide the images."""

ENGINES = {"evaluate.segment": "mmseg", "evaluate.detection.run": "detectron2.modeling"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of RGB images, and a cache of its own."""
    root, rng = tmp_path_factory.mktemp("unfit"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                PIL.Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def stop(
    door: str, ckpt: str, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """The sentence that the command ends with."""
    if door in ENGINES:
        pytest.importorskip(ENGINES[door], exc_type=ImportError)
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(folder / "cache"))
    given = [word.replace("FOLDER", f"folder:{folder}") for word in DOORS[door][0]]
    named = "--init" if door == "pretrain.command" else "--ckpt"
    where = ["--out", str(out), "--device", "cpu", "--workers", "0"]
    kind = given[:1] if door == "evaluate.probes.command" else []
    monkeypatch.setattr(sys, "argv", ["command", *kind, named, ckpt, *where, *given[len(kind) :]])
    with pytest.raises(SystemExit) as stopped:
        run_entry_point(importlib.import_module(door).main)
    assert stopped.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]  # a progress bar may stand before it
    assert "error: " in error
    return error


@pytest.mark.parametrize("door", DOORS)
def test_patches_that_dont_divide_the_images(
    door: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = stop(door, PATCHES_OF_14, folder, tmp_path, monkeypatch, capsys)
    assert error.count("error: ") == 1
    assert re.search(DOORS[door][1], error), error


@pytest.mark.parametrize("door", DOORS)
def test_four_channels_on_rgb(
    door: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = stop(door, FOUR_CHANNELS, folder, tmp_path, monkeypatch, capsys)
    assert "channels" in error
    assert "4" in error
