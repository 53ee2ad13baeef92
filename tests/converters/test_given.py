"""--mean, --std and --pos-resize: they replace what a file or its project implies, and are part of the digest."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from converters.open import open_backbone
from converters.settings.given import Given
from core.backbones import BackboneConfig, build_backbone, pooled_features
from core.checkpoints import backbone_digest, tensors_digest
from core.errors import UserError

VIT = BackboneConfig("vit_small_patch16_224", {"depth": 1, "img_size": 64})
HALF = (0.5, 0.5, 0.5)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    state = build_backbone(VIT).state_dict()
    torch.save({"teacher": {f"backbone.{name}": tensor for name, tensor in state.items()}}, tmp_path / "dino.pth")
    return tmp_path / "dino.pth"


def test_the_rule_is_the_projects_or_the_given_one(file: Path) -> None:
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    own = open_backbone(str(file), "target")
    other = open_backbone(str(file), "target", given=Given(pos_resize="timm"))
    assert (own.config.pos_resize, other.config.pos_resize) == ("dinov2", "timm")
    assert not torch.equal(pooled_features(own.model, images), pooled_features(other.model, images))
    assert backbone_digest(other) == tensors_digest(own.model.state_dict()) != backbone_digest(own)


def test_statistics_are_given_together_and_recorded(file: Path) -> None:
    found = open_backbone(str(file), "target", given=Given(HALF, HALF, "timm"))
    assert (found.config.mean, found.config.std, found.origin["normalisation"]) == (HALF, HALF, "--mean and --std")
    assert backbone_digest(found) != tensors_digest(found.model.state_dict())
    with pytest.raises(UserError, match="--mean"):
        open_backbone(str(file), "target", given=Given((0.5,), (0.5,)))


def test_a_rule_for_a_network_without_positions_is_refused() -> None:
    with pytest.raises(UserError, match="pos_resize"):
        open_backbone("timm:resnet18(channels=[4,4,4,4])", given=Given(pos_resize="dinov2"))


@pytest.mark.parametrize("ckpt", ["timm:resnet18(channels=[8,8,8,16])", "random:timm:resnet18(channels=[8,8,8,16])"])
def test_given_statistics_are_part_of_the_digest(ckpt: str) -> None:
    plain, given = open_backbone(ckpt), open_backbone(ckpt, given=Given(HALF, HALF))
    assert tensors_digest(plain.model.state_dict()) == tensors_digest(given.model.state_dict())
    assert backbone_digest(plain) != backbone_digest(given)
    assert "--mean and --std" in given.source
