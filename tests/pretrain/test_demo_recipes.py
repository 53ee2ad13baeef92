"""The recipes that the demo compares differ in their views and predictors, and in nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from core.config import load_config
from pretrain.config import PretrainConfig

FOLDER = Path(__file__).resolve().parents[2] / "configs/pretrain"


@pytest.mark.parametrize(
    ("name", "views", "predictors"),
    [
        ("demo_scenes_2globals", ["global"], "per_view"),
        ("demo_scenes_shared_multicrop", ["global", "local"], "shared"),
    ],
)
def test_one_difference_at_a_time(name: str, views: list[str], predictors: str) -> None:
    whole = load_config(PretrainConfig, FOLDER / "demo_scenes.yaml")
    config = load_config(PretrainConfig, FOLDER / f"{name}.yaml")
    assert list(whole.views) == ["global", "local", "cutout"]
    assert list(config.views) == views
    assert config.predictors == predictors
    assert dataclasses.replace(config, views=whole.views, predictors=whole.predictors) == whole
    assert all(config.views[view] == whole.views[view] for view in views)
