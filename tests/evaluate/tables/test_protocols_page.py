"""docs/protocols.md is what the facts and the published numbers say today."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from core.errors import UserError, run_entry_point
from evaluate.tables.protocol_facts import main
from evaluate.tables.protocols_page import names_with_facts, protocols_page
from tests.torchrun import ROOT


def test_the_page_is_current() -> None:
    """If not: python -m evaluate.tables.protocol_facts --write docs/protocols.md"""
    assert (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8") == protocols_page(names_with_facts())


def test_a_section_holds_facts_departures_and_rows() -> None:
    text = protocols_page(["linear_mulan_vit_s"])
    assert "| `rates` | [0.005] |  | command |" in text
    assert "| `standardise` | val | train | code |" in text
    assert "- `features.precision`: " in text
    assert "| BYOL ViT-S/16, multi-task, 200 epochs | top1 74.5 | no |" in text
    assert "pfdp0/mulan@6f38ec9: eval_linear.py" in text
    assert "| yes |" in protocols_page(["linear_mocov3_r50"])


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["protocols.py", "knn_dino"])
    main()
    assert capsys.readouterr().out.strip() == protocols_page(["knn_dino"]).strip()
    for arguments, message in ((["knn_none"], "knn_none"), (["knn_dino", "--write", str(tmp_path / "x")], "--write")):
        monkeypatch.setattr(sys, "argv", ["protocols.py", *arguments])
        with pytest.raises(UserError, match=message):
            main()
    monkeypatch.setattr(sys, "argv", ["protocols.py", "knn_none"])
    with pytest.raises(SystemExit) as stopped:
        run_entry_point(main)
    assert stopped.value.code == 2
