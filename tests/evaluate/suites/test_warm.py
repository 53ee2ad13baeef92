"""Runs that begin with everything imported: exit codes, logs, environment, interruption."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.errors import UserError
from core.project import ROOT
from evaluate.suites.warm import WarmProcess, WarmStart


def finished(process: WarmProcess) -> int:
    return process.wait(120)


def test_warm_runs_are_processes_of_their_own(tmp_path: Path) -> None:
    warm = WarmStart({"OMP_NUM_THREADS": "1"})
    probe = [sys.executable, str(ROOT / "evaluate/probe.py")]
    logs = [tmp_path / f"{name}.txt" for name in ("good", "bad", "long", "door")]
    door = warm.start([sys.executable, str(ROOT / "tests/evaluate/suites/start_method_door.py")], logs[3], {})
    assert finished(door) == 0
    usual = multiprocessing.get_start_method()  # not that of the server that forked the run
    assert f"start method {usual}" in logs[3].read_text()
    good = warm.start([*probe, "overcluster", "--help"], logs[0], {})
    bad = warm.start([*probe, "none"], logs[1], {})
    assert (finished(good), finished(bad)) == (0, 2)
    assert good.poll() == 0
    assert "usage" in logs[0].read_text()
    lines = logs[1].read_text().splitlines()
    assert lines[0].startswith("$ ")
    assert lines[-1].startswith("error: ")
    scenes = ["data.scenes.size=512", "data.scenes.test=2000", "features.size=32"]
    long = warm.start([*probe, "overcluster", "--ckpt", "pixels", "--device", "cpu", *scenes], logs[2], {
        "SSL_TRANSFER_CACHE": str(tmp_path / "cache"),
    })  # fmt: skip
    with pytest.raises(subprocess.TimeoutExpired):
        long.wait(0.1)
    until = time.monotonic() + 60
    while "protocol" not in logs[2].read_text() and time.monotonic() < until:
        time.sleep(0.1)
    with pytest.raises(BlockingIOError):  # a run holds its log's lock
        warm.start([*probe, "--help"], logs[2], {})
    os.killpg(long.pid, signal.SIGINT)
    assert finished(long) in (130, -signal.SIGINT)


def placed(name: str) -> tuple[str, str]:
    return os.getcwd(), os.environ[name]


def failing() -> None:
    raise UserError("no such network")


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_call_answers_from_a_process_that_is_in_the_same_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = WarmStart({"OMP_NUM_THREADS": "1"})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLACE", "here")
    assert warm.call(placed, "PLACE") == (str(tmp_path), "here")
    with pytest.raises(UserError, match="no such network"):
        warm.call(failing)
    with pytest.raises(UserError, match="-9"):
        warm.call(killed)


def test_loader_workers_of_a_run_start_as_those_of_a_command_do(tmp_path: Path) -> None:
    probes = tmp_path / "probes/asks"
    probes.mkdir(parents=True)
    (probes / "probe.py").write_text(
        "import multiprocessing\nprint('start method', multiprocessing.get_context().get_start_method())\n"
    )
    log = tmp_path / "log.txt"
    run = WarmStart({"OMP_NUM_THREADS": "1"}).start(
        [sys.executable, str(ROOT / "evaluate/probe.py"), "--help"], log, {"SSL_TRANSFER_PROBES": str(probes.parent)}
    )
    finished(run)
    assert f"start method {multiprocessing.get_context().get_start_method()}" in log.read_text()


def test_a_suite_and_its_table_need_no_torch() -> None:
    modules = (
        "suites.command",
        "suites.plan",
        "suites.runner",
        "suites.warm",
        "tables.transfer_table",
        "tables.renderers",
    )
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        + "".join(f"import evaluate.{name}\n" for name in modules)
        + "from evaluate.suites.config import open_suite\nopen_suite('dense')\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
