"""core/backbones/positions.py: one rule for position embeddings, the same as in the projects' own code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from core.backbones import BackboneConfig, build_backbone, pooled_features
from core.backbones.positions import PosResize, resize_positions
from core.errors import UserError

ARGS = {"depth": 1, "embed_dim": 24, "num_heads": 3, "patch_size": 8, "img_size": 40}
IMAGES = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
EMBEDDING = torch.randn(1, 1 + 25, 24, generator=torch.Generator().manual_seed(1))


def vit(rule: PosResize = "timm", **args: Any) -> Any:
    torch.manual_seed(0)
    model: Any = build_backbone(BackboneConfig("vit_tiny_patch16_224", ARGS | args, pos_resize=rule)).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.pos_embed)
    return model


def square() -> torch.Tensor:
    return EMBEDDING[:, 1:].reshape(1, 5, 5, 24).permute(0, 3, 1, 2)


def test_each_rule_is_one_call_of_torch() -> None:
    expected: dict[PosResize, torch.Tensor] = {
        "dinov2": functional.interpolate(square(), scale_factor=(4.1 / 5, 6.1 / 5), mode="bicubic"),
        "dinov2_antialias": functional.interpolate(square(), size=(4, 6), mode="bicubic", antialias=True),
        "timm": functional.interpolate(square(), size=(4, 6), mode="bicubic", antialias=True),
        "bicubic": functional.interpolate(square(), size=(4, 6), mode="bicubic", align_corners=False),
    }
    for rule, patches in expected.items():
        found = resize_positions(EMBEDDING, (5, 5), (4, 6), 1, rule)
        assert torch.equal(found[:, :1], EMBEDDING[:, :1])
        assert torch.equal(found[:, 1:], patches.flatten(2).transpose(1, 2))
        assert resize_positions(EMBEDDING, (5, 5), (5, 5), 1, rule) is EMBEDDING


@pytest.mark.parametrize("args", [{}, {"reg_tokens": 2, "no_embed_class": True}, {"reg_tokens": 2}])
def test_the_network_differs_in_nothing_else(args: dict[str, Any]) -> None:
    images = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    own, other = vit(**args), vit("dinov2", **args)
    assert torch.equal(pooled_features(own, images), pooled_features(other, images))
    assert torch.equal(pooled_features(own, IMAGES), pooled_features(vit("dinov2_antialias", **args), IMAGES))
    assert not torch.allclose(pooled_features(own, IMAGES, "patches"), pooled_features(other, IMAGES, "patches"))


def test_networks_without_learned_positions_refuse_a_rule() -> None:
    for name in ("resnet18", "test_convnext", "beit_base_patch16_224"):
        with pytest.raises(UserError, match="pos_resize"):
            build_backbone(BackboneConfig(name, pos_resize="dinov2"))
