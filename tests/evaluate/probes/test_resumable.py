"""Which settings an interrupted measurement must share with the one that resumes it."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.config import Setting, load_config
from core.distributed import Processes
from core.errors import UserError
from evaluate.common.context import RunContext
from evaluate.common.registry import descriptions
from evaluate.probes.base import Job, Probe
from evaluate.probes.measurement import identity
from evaluate.probes.transfer import measure

CONTEXT = RunContext(Processes(0, 4, torch.device("cpu")), workers=0, seed=0)
IMAGES = SimpleNamespace(digest=lambda: "d", classes=("a", "b"), name="birds")


def job(kind: str, *overrides: str | Setting) -> tuple[Probe, Job]:
    probe = descriptions()[kind]
    assert isinstance(probe, Probe)
    config = load_config(probe.config_class(), None, overrides)
    data: Any = {"train": IMAGES, "val": IMAGES}
    made = Job("p", config, SimpleNamespace(), "b", data, None, CONTEXT, argparse.Namespace(), Path("p"), 0.0)  # type: ignore[arg-type]
    return probe, made


@pytest.mark.parametrize(
    ("kind", "override", "same"),
    [
        ("linear", "features.batch=7", True),
        ("logreg", "solver=torch", True),
        ("finetune", Setting("data.source", "folder:/elsewhere"), True),
        ("finetune", "scaled_down=true", True),
        ("linear", "batch=7", False),
        ("logreg", "max_iter=7", False),
        ("finetune", "optim.weight_decay=0.5", False),
    ],
)
def test_speed_memory_and_place_may_change(kind: str, override: str | Setting, same: bool) -> None:
    assert (identity(*job(kind, override)) == identity(*job(kind))) == same


def test_too_few_images_for_the_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "cached_features", lambda *_: SimpleNamespace(rows=[0, 1, 2]))
    with pytest.raises(UserError, match=r"birds.*\b3 .*\b4 processes"):
        measure.measure_set(job("transfer")[1], "top1", SimpleNamespace())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("knn", "bank_limit=5", "train_limit"),
        ("knn", "query_limit=5", "val_limit"),
        ("logreg", "pooling=cls", "poolings"),
        ("transfer", "pooling=cls", "poolings"),
        ("finetune", "optimiser=sgd", "optim.name"),
        ("finetune", "layer_decay=0.5", "optim.layer_decay"),
        ("linear", "features.precision=bfloat16", "bf16"),
        ("knn", "features.storage=float16", "fp16"),
        ("segmentation", "precision=float16", "fp16"),
    ],
)
def test_old_spellings_name_the_new_one(kind: str, old: str, new: str) -> None:
    with pytest.raises(UserError, match=rf"{old.partition('=')[0]}.*\b{new}\b"):
        load_config(descriptions()[kind].config_class(), None, [old])
