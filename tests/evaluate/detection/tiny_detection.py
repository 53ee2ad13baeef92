"""Runs of evaluate/coco.py that take seconds: 64-pixel scenes, a narrow backbone, a protocol of six steps."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from core.backbones import BackboneConfig, build_backbone
from core.checkpoints import export_backbone
from core.data.scenes.coco_ade20k_folders import write_coco
from core.data.scenes.render import ScenesConfig
from core.errors import run_entry_point
from evaluate.coco import main
from tests.torchrun import ROOT

SCRIPT = ROOT / "evaluate" / "coco.py"
PROTOCOL = """
name: tiny
data: {source: 'coco:SCENES', short_sides: [64], longest: 64, test_short_side: 64, mask_format: bitmask}
detector: {pyramid_width: 16, box_width: 32, mask_convs: 1, mask_width: 16, anchors: [8, 16, 24, 32, 48],
           proposals: [50, 50, 30, 30], rois: 16}
solver: {lr: 0.02, batch: 4, iterations: 6, steps: [5], warmup: 2, checkpoint_every: 2, log_every: 1, precise_bn: 2}
"""


def make_place(root: Path) -> Path:
    """`root`, with scenes in COCO's layout, a protocol for them and a backbone in it."""
    write_scenes(root / "scenes")
    (root / "tiny.yaml").write_text(PROTOCOL.replace("SCENES", str(root / "scenes")))
    torch.manual_seed(0)
    backbone = BackboneConfig("resnet18", {"channels": [8, 16, 24, 32]})
    export_backbone(root / "backbone.safetensors", build_backbone(backbone), backbone, {"method": "none"})
    return root


def write_scenes(root: Path) -> Path:
    """12 scenes to train on and 5 to measure, in COCO's layout."""
    return write_coco(root, ScenesConfig(size=64, objects=(1, 3), radius=(0.15, 0.35), pretrain=1, train=12, test=5))


def arguments(place: Path, out: Path, *more: str, ckpt: str = "") -> list[str]:
    given = ckpt or str(place / "backbone.safetensors")
    return ["--ckpt", given, "--config", str(place / "tiny.yaml"), "--out", str(out), "--workers", "0",
            "--device", "cpu", *more]  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, *given: str) -> None:
    monkeypatch.setattr(sys, "argv", ["coco.py", *given])
    main()


def result(out: Path) -> dict[str, Any]:
    return json.loads((out / "result.json").read_text())


def steps(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def stopped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *given: str) -> str:
    """The one line that a run ends with."""
    monkeypatch.setattr(sys, "argv", ["coco.py", *given])
    with pytest.raises(SystemExit) as exit_:
        run_entry_point(main)
    assert exit_.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error
