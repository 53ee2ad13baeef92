"""core/backbones/class_token.py: the blocks see the patches alone, at their own positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.backbones import Backbone, BackboneConfig, build_backbone, family_of
from core.backbones.class_token import without_class_token
from core.errors import UserError

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 64}


def backbone_of(**args: Any) -> Backbone:
    config = BackboneConfig("vit_tiny_patch16_224", SMALL | args)
    model = build_backbone(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.2)
    return Backbone(config, model, "a ViT", {"network": "target"})


@pytest.mark.parametrize("args", [{}, {"reg_tokens": 2}, {"reg_tokens": 2, "no_embed_class": True}])
def test_blocks_see_the_other_tokens_alone(args: dict[str, Any]) -> None:
    given = backbone_of(**args)
    vit: Any = given.model
    without = without_class_token(given)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))[:, 1:]
        for block in vit.blocks:
            tokens = block(tokens)
        (stride, found), *rest = family_of(without.model).maps(without.model.eval(), images, [1])
    assert (stride, rest) == (16, [])
    expected = tokens[:, args.get("reg_tokens", 0) :].transpose(1, 2).reshape(2, 48, 4, 4)
    torch.testing.assert_close(found, expected)
    assert (without.source, without.origin) == (given.source, given.origin)
    assert vit.cls_token is not None


def test_a_vit_without_one_is_unchanged_and_other_networks_have_none() -> None:
    once = without_class_token(backbone_of())
    assert without_class_token(once) is once
    config = BackboneConfig("resnet18", {"channels": [8, 16, 24, 32]})
    with pytest.raises(UserError, match="class_token"):
        without_class_token(Backbone(config, build_backbone(config), "a ResNet"))
