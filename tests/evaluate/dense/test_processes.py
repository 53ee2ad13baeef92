"""Two processes measure what one measures, for every dense probe that shares its work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluate.dense.dense_of_a_rank import RUNS, main
from tests.torchrun import torchrun


def numbers(values: Any, where: str = "") -> dict[str, float]:
    """All numbers of nested metrics, by their place."""
    if isinstance(values, list):
        values = dict(enumerate(values))
    if isinstance(values, dict):
        inner = [numbers(value, f"{where}.{name}") for name, value in values.items()]
        return {key: number for found in inner for key, number in found.items()}
    return {where: float(values)} if isinstance(values, int | float) else {}


def test_two_processes_equal_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache of two"))
    done = torchrun(Path(__file__).parent / "dense_of_a_rank.py", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache of one"))
    main(tmp_path / "one")
    for kind in RUNS:
        one, two = (
            numbers(json.loads((tmp_path / side / kind / "result.json").read_text())["metrics"])
            for side in ("one", "two")
        )
        assert one.keys() == two.keys(), kind
        for key, value in one.items():
            assert two[key] == pytest.approx(value, rel=2e-3, abs=2e-3), f"{kind}{key}"
