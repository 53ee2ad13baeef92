"""core/backbones/base.py: the config's bounds and its one-line description."""

from __future__ import annotations

import pytest

from core.backbones import BackboneConfig, architecture_args, describe


def test_description() -> None:
    assert describe(BackboneConfig("resnet18", {"channels": [8, 16]})) == "resnet18(channels=[8, 16])"
    assert describe(BackboneConfig("resnet18", stem="small")) == "resnet18(stem=small)"


def test_initial_weights_are_not_architecture() -> None:
    assert architecture_args(BackboneConfig("resnet18", {"zero_init_last": False, "layers": [1, 1]})) == {
        "layers": [1, 1]
    }


def test_impossible_configs() -> None:
    with pytest.raises(ValueError, match="std"):
        BackboneConfig(std=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="name"):
        BackboneConfig("resnet50.a1_in1k")
