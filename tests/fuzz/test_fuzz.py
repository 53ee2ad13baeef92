"""A hundredth of what tests/fuzz/fuzz.py tries, other inputs each day, and what the harness itself notices."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import fuzz as harness
from tests.fuzz.kinds import KINDS
from tests.fuzz.mutations import changed, damaged


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", "")  # set by the harness, and to be forgotten


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_are_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    count = max(10, KINDS[kind][1] // 100)
    ends = harness.fuzz(kind, count, seed=int(time.strftime("%Y%m%d")), folder=tmp_path)
    assert sum(ends.values()) == count
    assert ends["refused"] > 0


def _fails(error: BaseException) -> Callable[[random.Random], None]:
    def trial(_rng: random.Random) -> None:
        raise error

    return trial


def _waits(_rng: random.Random) -> None:
    time.sleep(5)


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        (_fails(KeyError("x")), r"input 3, seed 7: KeyError\('x'\)"),
        (_fails(AssertionError("other tensors")), "other tensors"),
        (_waits, r"Hang\('longer than 0.1 s'\)"),
    ],
)
def test_the_harness_notices(trial: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "made up", (lambda _folder: trial, 1))
    monkeypatch.setattr(harness, "PATIENCE", 0.1)
    with pytest.raises(AssertionError, match=message):
        harness.fuzz("made up", 2, seed=7, folder=tmp_path, first=3)


def test_damage_is_damage_and_can_be_repeated() -> None:
    whole, document = bytes(range(256)) * 4, {"a": [1, {"b": 2}], "c": "d"}
    for make in (lambda rng: damaged(whole, rng), lambda rng: changed(document, rng)):
        found = [repr(make(random.Random(seed))) for seed in range(200)]
        assert found == [repr(make(random.Random(seed))) for seed in range(200)]
        assert len(set(found)) > 100
    assert document == {"a": [1, {"b": 2}], "c": "d"}
