"""evaluate/coco.py resumes: after a kill, after a stop between two states, among several processes."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from core.checkpoints import read_tensors
from tests.evaluate.detection.tiny_detection import SCRIPT, arguments, make_place, result, run, steps
from tests.torchrun import Process, python, torchrun


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("detection"))


@pytest.mark.slow
def test_a_killed_run_resumes(place: Path, tmp_path: Path) -> None:
    given = arguments(place, tmp_path, "solver.iterations=100", "solver.steps=[]")
    process = Process(str(SCRIPT), *given)
    state = tmp_path / "detector.pt"
    for _ in range(2400):
        if state.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = read_tensors(state)["step"]
    assert done in range(2, 100, 2)
    assert not (tmp_path / "result.json").exists()
    finished = python(str(SCRIPT), *given)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert f"step {done} of 100" in finished.stdout
    assert read_tensors(state)["step"] == 100
    assert steps(tmp_path) == list(range(1, 101))
    assert result(tmp_path)["metrics"]["box_ap"] is not None


def run_until(last: int, monkeypatch: pytest.MonkeyPatch, *given: str) -> None:
    """Runs until the state after step `last` is written."""
    from evaluate.detection.training import loop

    save = loop.Training.save

    def save_or_stop(training: loop.Training, step: int, *rest: Any) -> None:
        save(training, step, *rest)
        if step == last:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "save", save_or_stop)
        with pytest.raises(KeyboardInterrupt):
            run(patch, *given)


def test_a_resumed_run_sees_the_images_that_were_to_come(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped by a full disk after four of six steps; optimiser, schedule and order resume where they were."""
    run_until(4, monkeypatch, *arguments(place, tmp_path))
    saved = read_tensors(tmp_path / "detector.pt")
    assert (saved["step"], saved["scheduler"]["last_epoch"]) == (4, 4)
    run(monkeypatch, *arguments(place, tmp_path))
    assert "step 4 of 6" in capsys.readouterr().out
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    rates = [json.loads(line)["lr"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([0.00002, 0.01001, 0.02, 0.02, 0.02, 0.002])
    from evaluate.detection.data.loaders import _ResumableSampler

    whole, onward = iter(_ResumableSampler(12, 0, 0)), iter(_ResumableSampler(12, 0, 16))
    assert [next(whole) for _ in range(40)][16:] == [next(onward) for _ in range(24)]


@pytest.mark.parametrize("seed", [0, 123_456_789, 2**63 - 1])
def test_any_seed_starts_and_resumes_after_any_step(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """As after 85,000 of 90,000 steps: two steps are made, then the state claims to be of a later one."""
    given = arguments(place, tmp_path, "--seed", str(seed), "solver.iterations=85002", "solver.steps=[]")
    run_until(2, monkeypatch, *given)
    state = torch.load(tmp_path / "detector.pt", weights_only=True)
    state["step"] = state["trainer"]["iteration"] = state["scheduler"]["last_epoch"] = 85_000
    torch.save(state, tmp_path / "detector.pt")
    run(monkeypatch, *given)
    assert steps(tmp_path) == [1, 2, 85_001, 85_002]
    assert read_tensors(tmp_path / "detector.pt")["step"] == 85_002


def test_ranks_resumes_and_seeds_have_random_numbers_of_their_own() -> None:
    from evaluate.detection.training.loop import _stream

    cases = [(seed, rank, done) for seed in (0, 1, 2**63 - 1) for rank in range(64) for done in (0, 5000, 85_000)]
    streams = [_stream(*case) for case in cases]
    assert len(set(streams)) == len(cases)
    assert 0 <= min(streams) <= max(streams) < 2**32  # NumPy takes no more
    assert streams == [_stream(*case) for case in cases]


def test_precise_statistics_are_averages_over_batches() -> None:
    from types import SimpleNamespace

    from evaluate.detection.training.loop import _precise_statistics

    batches = list(torch.randn(5, 8, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 + 1)
    norm = torch.nn.BatchNorm2d(3)
    stream = iter(batches)
    _precise_statistics(norm, SimpleNamespace(_data_loader_iter=stream), 4, main=False)
    over = (0, 2, 3)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, torch.stack([b.mean(over) for b in batches[:4]]).mean(0))
    assert torch.equal(next(stream), batches[4])  # no more than was asked for is taken
    assert norm.momentum == 0.1


@pytest.mark.slow
def test_two_processes_end_equal_and_measure_as_one(place: Path, tmp_path: Path) -> None:
    digests, out = tmp_path / "digests", tmp_path / "out"
    digests.mkdir()
    for norms in ((), ("detector.pyramid_norm=SyncBN", "detector.head_norm=SyncBN", "detector.box_convs=1")):
        given = arguments(place, out / str(len(norms)), *norms)
        both = torchrun(Path(__file__).with_name("coco_of_a_rank.py"), str(digests), *given)
        assert both.returncode == 0, both.stderr[-3000:]
        assert "norms: backbone naiveSyncBN" in both.stdout
        assert (digests / "0").read_text() == (digests / "1").read_text()
        together = result(out / str(len(norms)))["metrics"]
        alone = python(str(SCRIPT), *given)
        assert alone.returncode == 0, alone.stderr[-3000:]
        assert "step 6 of 6" in alone.stdout
        assert result(out / str(len(norms)))["metrics"] == together
