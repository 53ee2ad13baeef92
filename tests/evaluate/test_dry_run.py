"""--dry-run of every evaluation: the plan, and nothing on disk."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

RESNET = "timm:resnet18"
SCENES = ["data.scenes.train=4", "data.scenes.test=2"]
RUNS = {
    "knn": ["--data", "folder:{images}", "ks=[3]"],
    "linear": ["--data", "folder:{images}", "batch=4"],
    "logreg": ["--data", "folder:{images}"],
    "finetune": ["--data", "folder:{images}", "batch=4"],
    "transfer_sets": ["--sets", "folder:{images}"],
    "coco": SCENES,
    "segment": SCENES,
}


@pytest.mark.parametrize("name", RUNS)
def test_the_plan_is_printed_and_nothing_is_written(
    name: str, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main = importlib.import_module(f"evaluate.{name}").main
    monkeypatch.setenv("SSL_TRANSFER_CACHE", os.environ.get("SSL_TRANSFER_CACHE") or str(tmp_path / "cache"))
    given = [argument.format(images=image_folder) for argument in RUNS[name]]
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", [name, "--ckpt", RESNET, "--out", str(out), "--dry-run", *given])
    main()
    said = capsys.readouterr().out
    assert said.startswith("protocol")
    assert "resnet18" in said
    assert "result: " not in said
    assert not out.exists()
