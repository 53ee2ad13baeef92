"""A few kills of the soak: whatever the moment, the same command ends with the same bits."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.reliability.killing import Kill, run
from tests.reliability.tiny_runs import last_state, metrics, run_here, same_bits, tiny, write_recipe
from tests.torchrun import Process, python


# In a process of its own: a fork needs a parent without threads.
@pytest.mark.parametrize(("part", "kills"), [("pretrain", 6), pytest.param("linear", 3, marks=pytest.mark.slow)])
def test_killed_at_many_moments_and_resumed(part: str, kills: int, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = python("-m", "tests.reliability.soak", "--parts", part, "--kills", str(kills), "--out", str(figures))
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(figures.read_text())[part]["kills"] == kills


def test_the_harness_kills_where_it_says(tmp_path: Path) -> None:
    """A kill that never struck would prove nothing."""

    def writes() -> None:
        for number in range(3):
            (folder / f"file{number}").write_bytes(b"x" * 5000)

    folder = tmp_path / "watched"
    folder.mkdir()
    whole = run(writes, [], folder)
    assert (whole.code, whole.killed) == (0, False)
    assert whole.events == ("open /file0", "open /file1", "open /file2")
    before = run(writes, [], folder, Kill(signal.SIGKILL, match="file1"))
    assert (before.code, before.moment) == (-signal.SIGKILL, "open /file1")
    for file in folder.iterdir():
        file.unlink()
    torn = run(writes, [], folder, Kill(signal.SIGKILL, match="file1", torn=1234))
    assert torn.code == -signal.SIGXFSZ
    assert [file.stat().st_size for file in sorted(folder.iterdir())] == [5000, 1234]
    outside = run(lambda: signal.pause(), [], folder, Kill(signal.SIGTERM, after=0.05))
    assert outside.code == -signal.SIGTERM


def test_the_real_command_line_with_a_loader_process(image_folder: Path, tmp_path: Path) -> None:
    overrides = ["epochs=16", "checkpoint.every_minutes=0.002"]  # long enough to be struck on a fast machine, too
    recipe = write_recipe(tmp_path / "r.yaml", image_folder, *overrides)
    whole = run_here(tiny(image_folder, *overrides), tmp_path / "whole")
    out = tmp_path / "run"
    command = ["pretrain/run.py", "--config", str(recipe), "--out", str(out), "--device", "cpu"]
    for lines in (2, 7, 1000):
        process = Process(*command, "--workers", "1")
        file = out / "metrics.jsonl"
        while process.poll() is None and not (file.is_file() and file.read_bytes().count(b"\n") >= lines):
            time.sleep(0.005)
        if lines < 1000:
            process.kill()
            assert process.wait(60) == -signal.SIGKILL
    assert process.wait(60) == 0
    assert same_bits(last_state(out), whole)
    assert [line["step"] for line in metrics(out)] == list(range(1, 33))
