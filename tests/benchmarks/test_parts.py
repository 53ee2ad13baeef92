"""Parts of the measurement on a GPU: what doesn't fit or fails is named, the rest is kept, and JUnit files are read."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.alternate import Row, from_json
from benchmarks.on_gpu.commands import files_of_tests, read_report
from benchmarks.on_gpu.parts import Found, Job, Part, run_parts

ROW = Row("x", "s", {"ours": [1.0]})


def job(seconds: float) -> Job:
    return Job(argparse.Namespace(), torch.device("cpu"), time.monotonic() + seconds)


def test_parts_that_fail_or_do_not_fit_leave_the_others_alone() -> None:
    def broken(_: Job) -> Found:
        raise RuntimeError("no kernel")

    def slow(_: Job) -> Found:
        time.sleep(5)
        return Found()

    parts = {
        "good": Part(lambda _: Found([ROW], {"size": 3}), 0, 5),
        "broken": Part(broken, 0, 5),
        "slow": Part(slow, 0, 0.1),
        "failing tests": Part(lambda _: Found(facts={"tests": 2}, failure="1 of 2"), 0, 5),
        "long": Part(lambda _: Found([ROW]), 100, 200),
        "of CUDA": Part(lambda _: Found([ROW]), 0, 5, needs_cuda=True),
        "last": Part(lambda _: Found([ROW]), 0, 5),
        "not asked for": Part(lambda _: Found([ROW]), 0, 5),
    }
    saved: list[tuple[int, str]] = []

    def save(new: list[Row], rows: list[Row], facts: dict[str, Any]) -> None:
        saved.append((len(rows), json.dumps(facts)))

    states = run_parts(parts, list(parts)[:-1], job(50), save)
    assert {name: state.partition(":")[0] for name, state in states.items()} == {
        "good": "done", "broken": "failed", "slow": "failed", "failing tests": "failed", "long": "not run",
        "of CUDA": "not run", "last": "done",
    }  # fmt: skip
    assert "no kernel" in states["broken"]
    assert "100 s" in states["long"]
    assert [count for count, _ in saved] == [1, 1, 1, 1, 1, 1, 2]
    first, last = (json.loads(facts) for _, facts in (saved[0], saved[-1]))
    assert first["parts"]["last"]["state"].startswith("not run")
    assert first["good"] == last["good"] == {"size": 3}
    assert last["failing tests"] == {"tests": 2}


def test_the_json_is_that_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "found.json"
    monkeypatch.setattr(gpu, "PARTS", {"k-NN": Part(lambda _: Found([ROW], {"a": 1}), 0, 5)})
    given = ["gpu.py", "--device", "cpu", "--json", str(out), "--minutes", "1", "--parts", "k-NN"]
    monkeypatch.setattr(sys, "argv", given)
    gpu.main()
    document = json.loads(out.read_text(encoding="utf-8"))["gpu"]
    assert document.pop("seconds") >= 0
    report = from_json(document)
    assert (report.benchmark, report.rows) == ("gpu", [ROW])
    assert report.settings["rounds"] == 2, "few rounds in a small budget"
    assert report.facts["parts"]["k-NN"]["state"] == "done"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_ends_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert "CUDA" in capsys.readouterr().err


def test_outcomes_of_tests_are_read(tmp_path: Path) -> None:
    assert read_report(tmp_path / "none.xml") == {}
    file = tmp_path / "tests.xml"
    cases = (
        '<testcase classname="a" name="x" time="1.5"/><testcase classname="a" name="y" time="0"><failure message="m"/>'
    )
    file.write_text(f"<testsuites><testsuite>{cases}</testcase></testsuite></testsuites>")
    assert read_report(file) == {
        "a::x": {"state": "passed", "seconds": 1.5},
        "a::y": {"state": "failed", "seconds": 0.0, "message": "m"},
    }


def test_files_of_tests_are_those_that_need_a_gpu() -> None:
    found = files_of_tests()
    assert "tests/pretrain/test_gpu.py" in found
    assert "tests/core/test_config.py" not in found
    assert found[-2:] == ["tests/pretrain/compute/test_captured.py", "tests/pretrain/compute/test_compiled.py"]
