"""Numbers that go wrong: fp16 that overflows, projections that collapse, batches too small; each is reported."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.checkpoints import training_states
from core.compute.sync_norm import synchronise_norms
from core.errors import UserError
from pretrain.losses.latent import COLLAPSED, spread
from pretrain.method import Method
from pretrain.monitoring.metrics import CollapseWatch
from tests.reliability.tiny_runs import metrics, run_here, tiny


def test_spread_is_zero_for_equal_rows_and_one_on_the_sphere() -> None:
    assert spread(torch.ones(7, 5)) == 0
    rows = np.random.default_rng(0).normal(size=(4000, 16))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = unit.std(axis=0).mean() * 4
    assert float(spread(torch.tensor(rows))) == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(1, abs=0.01)
    two = torch.tensor([[3.0, 0.0], [0.0, 5.0]])  # unit vectors: a deviation of ½ in both channels
    assert float(spread(two)) == pytest.approx(0.5 * 2**0.5)


def test_a_collapse_is_reported_once_and_again_when_it_comes_back(image_folder: Path) -> None:
    config = tiny(image_folder)
    watch = CollapseWatch(config, Method(config, torch.device("cpu")).objective)
    assert watch.warning(20, {"spread": 0.5}) == ""
    advice = watch.warning(40, {"spread": COLLAPSED / 2})
    assert advice.startswith("collapsed at step 40")
    assert all(key in advice for key in ("optim.lr", "schedule.warmup_epochs", "target.momentum (0.996)"))
    assert watch.warning(60, {"spread": 0.0}) == ""
    assert watch.warning(80, {"spread": 0.5}) == ""
    assert watch.warning(100, {"spread": 0.0}).startswith("collapsed at step 100")
    config = tiny(image_folder, "objective.name=simsiam", "target.kind=stop_gradient")
    simsiam = CollapseWatch(config, Method(config, torch.device("cpu")).objective)
    assert "momentum" not in simsiam.warning(1, {"spread": 0.0})


def test_a_run_measures_its_spread_and_says_when_it_collapses(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backward, calls = Method.backward, []

    def collapsing(self: Method, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:  # as a run ends that has lost all differences: a constant whatever the image
            with torch.no_grad():
                for network in self.networks():
                    last = [layer for layer in network.projector.modules() if isinstance(layer, torch.nn.Linear)][-1]
                    last.weight.zero_()
                    last.bias.fill_(1.0)
        return backward(self, *arguments)

    monkeypatch.setattr(Method, "backward", collapsing)
    run_here(tiny(image_folder, "optim.lr=1e-9", "optim.weight_decay=0.0"), tmp_path)
    lines = metrics(tmp_path)
    assert [line["spread"] > 0.1 for line in lines] == [True] * 4 + [False] * 4
    assert all(line["spread"] < COLLAPSED for line in lines[4:])
    assert [line.get("collapsed") for line in lines] == [None] * 4 + [True] * 4
    printed = [line for line in capsys.readouterr().err.splitlines() if "collapsed" in line]
    assert len(printed) == 1
    assert "warning: collapsed at step 5" in printed[0]


def _overflowing(monkeypatch: pytest.MonkeyPatch, steps: range) -> None:
    backward, calls = Method.backward, []

    def overflowing(self: Method, *arguments: Any) -> Any:
        losses = backward(self, *arguments)
        calls.append(1)
        if len(calls) in steps:
            next(self.online.parameters()).grad.fill_(float("inf"))
        return losses

    monkeypatch.setattr(Method, "backward", overflowing)
    # From a scale at which nothing overflows by itself.
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=16.0))


def test_steps_that_fp16_skips_are_counted(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _overflowing(monkeypatch, range(3, 16))
    run_here(tiny(image_folder, "compute.precision=fp16", "epochs=9", "checkpoint.log_steps=5"), tmp_path)
    # A line every fifth step and at the ends of epochs, after every second.
    skipped = {line["step"]: line["skipped_steps"] for line in metrics(tmp_path)}
    assert sum(skipped.values()) == 13
    assert [skipped[step] for step in (2, 4, 5, 6, 16, 18)] == [0, 2, 1, 1, 0, 0]
    peaks = {line["step"]: line["gradient_norm_max"] for line in metrics(tmp_path) if "gradient_norm_max" in line}
    assert all(math.isfinite(peak) for peak in peaks.values())
    assert not peaks.keys() & {4, 5, 6}, "lines whose steps were all skipped"
    assert peaks.keys() >= {2, 16, 18}
    printed = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert all(part in printed[0] for part in ("warning: ", "10 steps", "fp16"))
    assert "compute.precision=bf16" in printed[0]
    assert len(printed) == 1


def test_fp16_that_always_overflows_ends_the_run_and_keeps_the_last_state(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _overflowing(monkeypatch, range(5, 100))
    config = tiny(image_folder, "compute.precision=fp16", "epochs=30", "checkpoint.every_epochs=2")
    with pytest.raises(UserError, match=r"40 steps.*skipped.*bf16"):
        run_here(config, tmp_path)
    assert training_states(tmp_path / "checkpoints")[-1].name == "step_000000040.pt"
    assert len(metrics(tmp_path)) == 43


def test_synchronised_norms_alone_keep_the_state_of_plain_ones() -> None:
    plain, other = (torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)) for _ in range(2))
    other.load_state_dict(plain.state_dict())
    synchronised = synchronise_norms(other, torch.device("cpu"))
    rows = torch.randn(5, 3)
    assert torch.equal(plain(rows), synchronised(rows))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(synchronised.state_dict()[name], tensor), name
