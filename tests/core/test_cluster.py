"""core/cluster: commands as jobs, through submitit's local executor with real processes; its options."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from core.cluster.options import minutes_of, without_launcher
from core.errors import UserError
from core.project import ROOT
from tests.reliability.tiny_runs import write_recipe
from tests.torchrun import torchrun, warm_python

pytest.importorskip("submitit")
_PATIENCE = 200


def submitted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> int:
    """Gives pretrain/run.py these arguments and a launcher; the controller's process id."""
    from pretrain.command import main

    argv = [str(ROOT / "pretrain/run.py"), *words, "--launcher", "submitit-local", "--gpus", "2"]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr("core.cluster.submit.sys", SimpleNamespace(argv=argv, executable=str(warm_python())))
    main()
    found = re.search(r"job (\d+) on 1 × 2", capsys.readouterr().out)
    assert found
    return int(found[1])


def children(process: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def wait_until(true: object, what: str) -> None:
    until = time.monotonic() + _PATIENCE
    while not true():  # type: ignore[operator]
        assert time.monotonic() < until, what
        time.sleep(0.02)


def ended(job: int) -> bool:
    """True once the controller, which is a child of this process, is gone."""
    return os.waitpid(job, os.WNOHANG)[0] == job


def lines(run: Path) -> list[dict[str, float]]:
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def test_a_killed_and_a_requeued_job_end_as_one_that_ran_through(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path / "recipe.yaml", image_folder, "epochs=10", "checkpoint.every_epochs=1")
    run = tmp_path / "run"
    words = ["--config", str(recipe), "--device", "cpu", "--workers", "0", "--out"]

    job = submitted(monkeypatch, capsys, *words, str(run))
    wait_until(lambda: len(lines(run)) >= 3, "no step")
    tasks = children(job)
    assert len(tasks) == 2
    os.kill(children(tasks[1])[0], signal.SIGKILL)  # the second process dies, as of a lack of memory
    wait_until(lambda: ended(job), "the job outlives its process")
    log = (tmp_path / f"submitit/{job}/{job}_1_log.err").read_text()
    assert "exit code" in log
    before = len(lines(run))
    assert before < 20

    job = submitted(monkeypatch, capsys, *words, str(run))
    wait_until(lambda: len(lines(run)) >= before + 2, "not resumed")
    for task in children(job):  # as Slurm does when the time is over
        os.kill(task, signal.SIGUSR2)
    wait_until(lambda: ended(job), "no end")
    log = (tmp_path / f"submitit/{job}/{job}_0_log.out").read_text()
    assert len(re.findall(r"resuming after step \d+ of 20", log)) == 2, "not requeued"
    assert "done: " in log

    through = torchrun(ROOT / "pretrain/run.py", *words, str(tmp_path / "through"))
    assert through.returncode == 0, through.stderr
    names = [key for key in lines(run)[0] if key != "images_per_second"]
    kept = [[[line[name] for name in names] for line in lines(folder)] for folder in (run, tmp_path / "through")]
    assert kept[0] == kept[1]
    ours, whole = (load_file(folder / "backbone.safetensors") for folder in (run, tmp_path / "through"))
    assert all(torch.equal(ours[name], whole[name]) for name in ours | whole)


def test_an_evaluation_is_submitted_with_its_own_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.cluster import submit
    from evaluate.knn import main

    seen = []
    monkeypatch.setattr(submit, "submit", lambda commands, resources, name: seen.append((commands, resources, name))
                        or SimpleNamespace(number="7", logs=(Path("log"),)))  # fmt: skip
    given = ["--ckpt", "pixels", "--launcher", "submitit", "--gpus", "4", "--time", "2-0", "--data", "scenes", "ks=[3]"]
    monkeypatch.setattr(sys, "argv", [str(ROOT / "evaluate/knn.py"), *given, "--partition", "big"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    (([command], resources, name),) = seen
    assert command[2:] == ["--ckpt", "pixels", "--data", "scenes", "ks=[3]"]
    assert (resources.gpus, resources.minutes, resources.partition, name) == (4, 2880, "big", "knn")


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:30", 91), ("24:00:00", 1440), ("1-12", 2160), ("1-0:30", 1470), ("1-0:0:1", 1441)],
)
def test_times_as_of_slurm(text: str, minutes: int) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--partition", "x"], "--partition"),
        (["--launcher", "submitit", "--time", "soon"], "--time"),
        (["--launcher", "submitit", "--time", "0:30"], "--time"),
        (["--launcher", "submitit", "--gpus", "0"], "--gpus"),
        (["--launcher", "submitit-local", "--nodes", "2"], "--nodes"),
        (["--launcher", "submitit"], "srun"),
    ],
)
def test_what_does_not_fit_is_refused(
    words: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evaluate.knn import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(ROOT / "evaluate/knn.py"), "--ckpt", "pixels", *words])
    with pytest.raises(UserError, match=named):
        main()


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from core.cluster.options import Resources
    from core.cluster.submit import submit

    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"\[cluster\]"):
        submit([["true"]], Resources(), "x")


def test_the_job_gets_the_rest_of_the_command_line() -> None:
    given = ["--ckpt", "a b", "--launcher=submitit", "k=1", "--qos", "low", "--out", "x", "--nodes", "2", "j=-1"]
    assert without_launcher(given) == ["--ckpt", "a b", "k=1", "--out", "x", "j=-1"]
