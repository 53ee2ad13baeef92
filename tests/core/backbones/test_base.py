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
    for args, mean in (({"in_chans": 17}, (0.5,) * 17), ({"in_chans": 0}, ()), ({"in_chans": 4}, (0.5,) * 3)):
        with pytest.raises(ValueError, match=r"in_chans|mean|std"):
            BackboneConfig("resnet18", args, mean=mean, std=(1.0,) * len(mean))


def test_channels() -> None:
    assert BackboneConfig().in_chans == 3
    assert BackboneConfig("resnet18", {"in_chans": 2}, mean=(0.1, 0.2), std=(1.0, 1.0)).in_chans == 2
