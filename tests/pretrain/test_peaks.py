"""The largest loss and gradient norm of a step between two lines of metrics, however the run got there."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from core.data.broken import BrokenImages
from core.distributed import Processes
from pretrain import trainer
from pretrain.method import Method
from pretrain.monitoring import metrics
from pretrain.monitoring.metrics import StepMetrics
from pretrain.trainer import Stopped
from tests.pretrain.tiny_run import recipe, run, run_until_killed

CPU = torch.device("cpu")
SHORT = ("batch=2", "epochs=2")
"""Two epochs of six steps; with a line every fourth step there are lines after steps 4, 6, 8 and 12."""


def lines_of(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


@pytest.fixture(scope="module")
def each_step(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Any]]:
    """Last state and lines of a run with a line for each step."""
    out = tmp_path_factory.mktemp("each")
    return run(recipe(image_folder, *SHORT, "checkpoint.log_steps=1"), out), lines_of(out)


def check(lines: list[dict[str, Any]], each: list[dict[str, Any]]) -> None:
    before = 0
    for line in lines:
        steps = each[before : line["step"]]
        assert line["loss_max"] == max(step["loss"] for step in steps)
        assert line["gradient_norm_max"] == max(step["gradient_norm"] for step in steps)
        before = line["step"]


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends SIGTERM within a step."""
    backward, done = Method.backward, []

    def stopped(self: Method, *arguments: Any) -> Any:
        done.append(1)
        if len(done) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return backward(self, *arguments)

    monkeypatch.setattr(Method, "backward", stopped)


def test_peaks_are_the_largest_of_the_steps_and_change_no_weight(
    image_folder: Path, tmp_path: Path, each_step: tuple[dict[str, Any], list[Any]]
) -> None:
    state, each = each_step
    assert [line["step"] for line in each] == list(range(1, 13))
    check(each, each)
    whole = run(recipe(image_folder, *SHORT, "checkpoint.log_steps=4"), tmp_path)
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [4, 6, 8, 12]
    check(lines, each)
    assert any(line["loss_max"] > line["loss"] for line in lines)
    assert any(line["gradient_norm_max"] > line["gradient_norm"] for line in lines)
    assert all(torch.equal(tensor, state["online"][name]) for name, tensor in whole["online"].items())


@pytest.mark.parametrize("steps", [3, 7, 10])
def test_a_killed_run_finds_the_same_peaks(
    steps: int, image_folder: Path, tmp_path: Path, each_step: tuple[dict[str, Any], list[Any]]
) -> None:
    config = recipe(image_folder, *SHORT, "checkpoint.log_steps=4")
    run_until_killed(config, tmp_path, steps)
    run(config, tmp_path)
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [4, 6, 8, 12]
    check(lines, each_step[1])


def test_a_run_that_stops_within_an_interval_finds_the_peaks_of_both_parts(
    image_folder: Path, tmp_path: Path, each_step: tuple[dict[str, Any], list[Any]]
) -> None:
    config = recipe(image_folder, *SHORT, "checkpoint.log_steps=4")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(10, patch)
        with pytest.raises(Stopped):
            run(config, tmp_path)
    run_until_killed(config, tmp_path, 1)  # the next try starts from the same state, within the interval
    run(config, tmp_path)
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines] == [4, 6, 8, 10, 12]
    check(lines, each_step[1])


def test_the_loss_of_a_step_is_the_mean_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    logs = [StepMetrics(["a", "b"], Processes(rank, 2, CPU), BrokenImages(9, 0.1), 4, scaled=False) for rank in (0, 1)]
    losses = ([(1.0, 2.0), (5.0, 2.0), (1.0, 1.0)], [(7.0, 2.0), (2.0, 2.0), (1.0, 1.0)])  # sums 3 7 2, and 9 4 2
    for log, of_rank in zip(logs, losses, strict=True):
        for step, (a, b) in enumerate(of_rank):
            log.add(step, {"a": torch.tensor(a), "b": torch.tensor(b)}, torch.tensor(4.0 - step), [])
    sent: list[Any] = []
    monkeypatch.setattr(metrics, "gather_objects", lambda mine: sent.append(mine) or [mine])
    health = {"spread": torch.tensor(0.5)}
    assert logs[1].report(False, False, health).values["loss_max"] == 9.0
    monkeypatch.setattr(metrics, "gather_objects", lambda mine: [mine, *sent])
    found = logs[0].report(False, False, health).values
    assert {key: found[key] for key in ("loss", "loss_max", "loss/a", "loss/b", "spread")} == pytest.approx(
        {"loss": 4.5, "loss_max": 6.0, "loss/a": 17 / 6, "loss/b": 5 / 3, "spread": 0.5}
    )
    assert (found["gradient_norm"], found["gradient_norm_max"]) == (2.0, 4.0)


def test_steps_that_are_skipped_have_no_peak() -> None:
    log = StepMetrics(["global"], Processes(0, 1, CPU), BrokenImages(9, 0.1), 4, scaled=True)

    def report(*norms: float) -> dict[str, float]:
        for step, norm in enumerate(norms):
            if math.isfinite(norm):
                log.note_update()
            log.add(step, {"global": torch.ones(())}, torch.tensor(norm), [])
        return log.report(False, False, {}).values

    assert report(2.0, math.inf, 3.0, 1.0)["gradient_norm_max"] == 3.0
    assert "gradient_norm_max" not in report(math.inf, math.inf)
    assert report(1.5, 0.5)["gradient_norm_max"] == 1.5, "each interval has its own"


def test_the_progress_bar_shows_means_alone() -> None:
    class Bar:
        text = ""

        def set_postfix_str(self, text: str) -> None:
            self.text = text

    values = {"loss": 3.0, "loss_max": 9.0, "loss/a": 1.0, "loss/b": 2.0, "gradient_norm_max": 4.0}
    bar, report = Bar(), metrics.Report({**values, "images_per_second": 5.0}, False, False, [], 0)
    trainer._show(bar, report, 0.1, "")  # type: ignore[arg-type]
    assert bar.text == "loss 3.000  a 1.000  b 2.000  lr 0.1  5 images/s"
