"""Plans, contexts and metrics: rendering and direction."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from core.distributed import Processes
from evaluate.common.context import RunContext
from evaluate.common.metrics import Metric
from evaluate.common.plan import Plan, count, processes_text, runs_on

ALONE = Processes(0, 1, torch.device("cpu"))


def test_a_plan_is_one_line_per_pair_with_aligned_texts() -> None:
    plan = Plan((*Plan((("protocol", "knn_dino"),)), ("val", "100 images"), ("runs on", "CPU")))
    lines = str(plan).splitlines()
    assert [line.split(maxsplit=1)[0] for line in lines] == ["protocol", "val", "runs"]
    assert {line.index(text) for line, (_, text) in zip(lines, plan, strict=True)} == {10}


def test_numbers_agree_with_their_nouns() -> None:
    assert [processes_text(number) for number in (1, 2, 8)] == ["1 process", "2 processes", "8 processes"]
    assert [count(number, "image") for number in (0, 1, 1000)] == ["0 images", "1 image", "1,000 images"]
    label, text = runs_on(dataclasses.replace(ALONE, world_size=2), "fp32", "")
    assert label == "runs on"
    assert text.endswith("2 processes; fp32")


def test_a_context_is_fixed_and_gives_device_and_main() -> None:
    context = RunContext(ALONE, workers=2, seed=3)
    assert (context.device.type, context.is_main) == ("cpu", True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        context.seed = 4  # type: ignore[misc]


def test_a_metric_shows_its_unit_and_knows_its_direction() -> None:
    error = Metric("rmse", "RMSE", unit="m", better="lower", digits=3)
    assert (error.text(0.55512), error.signed(-0.0204), error.head) == ("0.555", "-0.020", "RMSE (m) ↓")
    assert Metric("top1", "top-1").head == "top-1"
