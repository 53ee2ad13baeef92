"""--dry-run of every kind of evaluation: the plan, and nothing on disk; without data the built-in scenes."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

from evaluate.common.registry import descriptions

pytestmark = pytest.mark.usefixtures("no_weights")
SMALL = {
    "detection": ["data.scenes.train=4", "data.scenes.test=2"],
    "segmentation": ["data.scenes.train=4", "data.scenes.test=2"],
    "transfer": ["--sets", "scenes"],
}
"""Arguments of those that write their scenes to disk, or have more sets than scenes."""


@pytest.mark.parametrize("kind", descriptions())
def test_the_plan_is_printed_and_nothing_is_written(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    door, *chosen = descriptions()[kind].command()
    main = importlib.import_module(f"evaluate.{door.removesuffix('.py')}").main
    monkeypatch.setenv("SSL_TRANSFER_CACHE", os.environ.get("SSL_TRANSFER_CACHE") or str(tmp_path / "cache"))
    out = tmp_path / "out"
    given = [*chosen, "--ckpt", "timm:resnet18", "--out", str(out), "--dry-run", *SMALL.get(kind, [])]
    monkeypatch.setattr(sys, "argv", [door, *given])
    main()
    plan = capsys.readouterr().out
    assert plan.startswith("protocol")
    assert "resnet18" in plan
    assert "scenes" in plan.splitlines()[0] or kind == "transfer"
    assert "result: " not in plan
    assert not out.exists()
