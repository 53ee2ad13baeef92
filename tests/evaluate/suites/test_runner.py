"""evaluate/suites/runner.py and progress.py: processes, failures, Ctrl-C, progress."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from core.errors import UserError
from evaluate.suites import runner
from evaluate.suites.config import Evaluation
from evaluate.suites.plan import Run
from evaluate.suites.progress import Progress
from evaluate.suites.runner import Slot, last_line, make_slots, run_all, thread_limits


def run(folder: Path, code: str, seed: int = 0) -> Run:
    return Run(Evaluation("knn", "p"), "p", code, "c", False, seed, "online", "d", "row", folder / str(seed))


def quiet(runs: list[Run], jobs: int = 1) -> Progress:
    return Progress(runs, jobs, {}, io.StringIO())


@pytest.fixture
def python_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs execute the code in their `ckpt`; FOLDER in it is their folder."""
    monkeypatch.setattr(
        runner, "python_command",
        lambda run, _device, _workers: [sys.executable, "-c", run.ckpt.replace("FOLDER", repr(str(run.folder)))],
    )  # fmt: skip


RESULT = json.dumps({
    "format": "ssl-transfer/result/1", "protocol": "p", "kind": "knn", "metrics": {"top1": 12.34},
    "backbone": "resnet18", "seed": 0,
    "checkpoint": {"given": "x", "backbone_sha256": "d"}, "data": {"val": {"digest": "e"}}, "settings": {},
})  # fmt: skip


WRITE = f"import pathlib; pathlib.Path(FOLDER, 'result.json').write_text('{RESULT}')"


SLOT = Slot("cpu", 0, {"THREADS": "3"})


def test_runs_take_no_more_threads_than_the_environment_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert thread_limits(2) == dict.fromkeys(names, "4")
    assert thread_limits(16) == dict.fromkeys(names, "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert (thread_limits(1), thread_limits(4)) == (dict.fromkeys(names, "3"), dict.fromkeys(names, "2"))
    monkeypatch.setenv("MKL_NUM_THREADS", "all")
    assert thread_limits(1) == dict.fromkeys(names, "3")


def test_several_at_once_share_the_cores_or_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    slots = make_slots(2, "cpu")
    assert [(slot.device, slot.workers, slot.environment["OMP_NUM_THREADS"]) for slot in slots] == [("cpu", 3, "4")] * 2
    assert slots[0].environment["CUDA_VISIBLE_DEVICES"] == ""
    with pytest.raises(UserError, match=r"--jobs 9 .* 8 "):
        make_slots(9, "cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in make_slots(3, "cuda")] == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in make_slots(2, "cuda")] == ["5", "7"]
    with pytest.raises(UserError, match=r"--jobs 3 .*GPUs.* 2"):
        make_slots(3, "cuda")


@pytest.mark.usefixtures("python_code")
def test_a_failure_stops_no_other_run_and_shows_its_last_line(tmp_path: Path) -> None:
    runs = [
        run(tmp_path, "print('once\\rtwice\\n\\n'); raise SystemExit('error: no such folder')", 0),
        run(tmp_path, "import os; assert os.environ['THREADS'] == '3'; " + WRITE, 1),
        run(tmp_path, "print('all is well')", 2),
    ]
    out = io.StringIO()
    failures = run_all(runs, [SLOT], Progress(runs, 1, {}, out))
    assert [(failure.run.seed, failure.sentence) for failure in failures] == [
        (0, "error: no such folder"), (2, "all is well"),
    ]  # fmt: skip
    lines = out.getvalue().splitlines()
    assert lines[0] == "starts    p · c · seed 0"
    assert lines[1].startswith("FAILED    p · c · seed 0: error: no such folder")
    assert lines[3].startswith("done      p · c · seed 1: top-1 12.3 (")
    assert lines[5].endswith("; 3 of 3 runs, 2 failed")


@pytest.mark.usefixtures("python_code")
def test_a_result_without_a_number_is_a_failure_and_stops_no_other_run(tmp_path: Path) -> None:
    codes = [WRITE.replace("12.34", "NaN"), WRITE.replace(RESULT, "{"), WRITE]
    runs = [run(tmp_path, code, seed) for seed, code in enumerate(codes)]
    failures = run_all(runs, [SLOT], quiet(runs))
    assert [failure.run.seed for failure in failures] == [0, 1]
    assert "top1 of nan" in failures[0].sentence
    assert "result" in failures[1].sentence


@pytest.mark.usefixtures("python_code")
def test_several_at_once(tmp_path: Path) -> None:
    # Each waits for the other's file: one after another they would never end.
    code = (
        "import pathlib, time; me = pathlib.Path(FOLDER); (me / 'here').touch(); "
        "other = me.parent / str(1 - int(me.name)) / 'here'\n"
        "while not other.exists(): time.sleep(0.05)\n"
    )
    runs = [run(tmp_path, code + WRITE, seed) for seed in (0, 1)]
    assert run_all(runs, [SLOT, SLOT], quiet(runs, 2)) == []


@pytest.mark.usefixtures("python_code")
def test_ctrl_c_lets_the_runs_end_themselves(tmp_path: Path) -> None:
    code = (
        "import pathlib, time\n"
        "pathlib.Path(FOLDER, 'started').touch()\n"
        "try:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    pathlib.Path(FOLDER, 'saved').touch()"
    )
    runs = [run(tmp_path, code, seed) for seed in (0, 1)]

    def interrupt() -> None:
        while not (tmp_path / "0/started").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_all(runs, [SLOT], quiet(runs))
    assert (tmp_path / "0/saved").exists()
    assert not (tmp_path / "1").exists()


@pytest.mark.usefixtures("python_code")
def test_what_another_process_measures_is_left_alone(tmp_path: Path) -> None:
    runs = [run(tmp_path, WRITE, seed) for seed in (0, 1)]
    runs[0].folder.mkdir()
    with runs[0].log.open("ab") as log:  # as a run does whose suite was killed
        fcntl.flock(log, fcntl.LOCK_EX)
        failures = run_all(runs, [SLOT], quiet(runs))
    assert [(failure.run.seed, "another process" in failure.sentence) for failure in failures] == [(0, True)]
    assert (runs[1].folder / "result.json").is_file()


def test_progress_and_eta(tmp_path: Path) -> None:
    now = [0.0]
    runs = [run(tmp_path, "", seed) for seed in range(4)]
    out = io.StringIO()
    progress = Progress(runs, 2, {}, out, lambda: now[0])
    assert progress.eta() is None
    progress.started(runs[0])
    progress.started(runs[1])
    now[0] = 100.0
    progress.ended(runs[0], "top-1 1.0", failed=False)
    # One runs for 100 of 100 s, two wait for 100 s each, on two slots: both at once.
    assert progress.eta() == 100.0
    assert re.search(r"p · c · seed 0: top-1 1.0 \(1 min 40 s\); 1 of 4 runs, .*1 min 40 s left\n$", out.getvalue())
    now[0] = 130.0
    progress.tick(lambda _: "step 3")
    assert out.getvalue().count("\n") == 3  # a minute has not passed since the last line
    now[0] = 161.0
    progress.tick(lambda _: "step 4")
    assert re.search("p · c · seed 1 .*2 min 41 s: step 4$", out.getvalue().splitlines()[-1])


def test_times_of_stored_results_start_the_eta(tmp_path: Path) -> None:
    runs = [run(tmp_path, "", seed) for seed in range(4)]
    assert Progress(runs, 1, {"p": 30.0}, io.StringIO()).eta() == 120.0

    now = [0.0]
    unknown = Progress(runs, 2, {"q": 10.0}, io.StringIO(), lambda: now[0])
    assert re.fullmatch("0 of 4 runs, .*20 s left", unknown.overall())
    unknown.started(runs[0])
    now[0] = 30.0  # longer than what is known, so the others are taken to last as long
    assert unknown.eta() == 45.0


def test_last_line(tmp_path: Path) -> None:
    assert "no output" in last_line(tmp_path / "none")
    (tmp_path / "log").write_text("a\n 10%\r 20%\r\n\n")
    assert last_line(tmp_path / "log") == "20%"
