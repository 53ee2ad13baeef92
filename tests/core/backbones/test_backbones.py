"""core/backbones/__init__.py: families are found in the folder, names and networks go to the right one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import core.backbones
from core.backbones import (
    Backbone,
    BackboneConfig,
    build_backbone,
    check_weights,
    families,
    family_named,
    family_of,
    feature_width,
    fixed_backbone,
    pooled_features,
)
from core.errors import UserError
from tests.torchrun import python

NEW_FAMILY = '''
"""Mean colour, times one weight."""

import torch
from torch import nn

from core.backbones.base import Family


class MeanColour(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return self.scale * images.mean(dim=(2, 3))


class MeanColours(Family):
    title, noun, vector_name, architecture, dense = "mean colours", "a mean colour", "mean", "mean_colour", "none"

    def builds(self, name):
        return name.startswith("mean_colour")

    def matches(self, model):
        return isinstance(model, MeanColour)

    def build(self, config, drop_path):
        return MeanColour()

    def poolings(self, model):
        return ("avg",)

    def width(self, model, pooling, side):
        return 3

    def vector(self, model, images, pooling):
        self.resolve_pooling(model, pooling)
        return model(images)


FAMILY = MeanColours()
'''


def test_a_new_family_is_one_file_and_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = BackboneConfig("mean_colour_of_everything")
    with pytest.raises(UserError, match="mean_colour_of_everything"):
        build_backbone(config)
    (tmp_path / "a_mean_colour.py").write_text(NEW_FAMILY, encoding="utf-8")
    monkeypatch.setattr(core.backbones, "__path__", [*core.backbones.__path__, str(tmp_path)])
    model = build_backbone(config)
    images = torch.randn(2, 3, 8, 8)
    assert feature_width(model) == 3
    torch.testing.assert_close(pooled_features(model, images), images.mean(dim=(2, 3)))
    assert family_of(model).layer_groups(model).layers == {"scale": 0}
    check_weights(Backbone(config, model, "new"), "train")
    with pytest.raises(UserError, match="pooling cls"):
        pooled_features(model, images, "cls")
    with pytest.raises(UserError, match="mean colours"):
        build_backbone(BackboneConfig("resnet51"))
    assert family_of(build_backbone(BackboneConfig("resnet18"))).architecture == "resnet"


def test_files_without_a_family_are_helpers() -> None:
    assert sorted(family.architecture for family in families()) == [
        "own", "pixels", "resnet", "scattering", "stages", "tokens", "vit"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("resnet50", "resnet"),
        ("wide_resnet50_2", "resnet"),
        ("vit_tiny_patch16_224", "vit"),
        ("pixels", "pixels"),
        ("vit_small_patch16_dinov3", "tokens"),
        ("swin_tiny_patch4_window7_224", "stages"),
    ],
)
def test_names_belong_to_one_family(name: str, architecture: str) -> None:
    assert family_named(name).architecture == architecture
    assert [family.architecture for family in families() if family.builds(name)] == [architecture]


def test_unknown_names_are_refused_with_close_ones() -> None:
    with pytest.raises(UserError, match=r"'resnet51'.* resnet\d"):
        build_backbone(BackboneConfig("resnet51"))
    with pytest.raises(UserError, match=r"'convnext_tinny'.*convnext_tiny"):
        build_backbone(BackboneConfig("convnext_tinny"))


def test_fixed_functions_are_opened_but_neither_built_nor_trained() -> None:
    assert fixed_backbone("resnet18") is None
    fixed = fixed_backbone("pixels")
    assert fixed is not None
    assert fixed.config == BackboneConfig("pixels")
    with pytest.raises(UserError, match="pixels"):
        check_weights(fixed, "train")
    with pytest.raises(UserError, match="pixels"):
        build_backbone(fixed.config)


def test_families_are_listed_without_timm() -> None:
    code = (
        "import sys; [sys.modules.pop(name) for name in [*sys.modules] if name.partition('.')[0] == 'timm']\n"
        "import core.backbones; assert core.backbones.fixed_backbone('pixels'); assert 'timm' not in sys.modules"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
