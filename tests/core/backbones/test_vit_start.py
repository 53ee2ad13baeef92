"""core/backbones/vit_start.py: bounds and deviations of the start, and nothing else changed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from core.backbones import BackboneConfig, build_backbone
from core.backbones.vit_start import VitStartConfig, build_started
from core.errors import UserError

SMALL = BackboneConfig("vit_small_patch16_224", {"depth": 1, "img_size": 32})


def built(start: VitStartConfig) -> Any:
    torch.manual_seed(0)
    return build_started(SMALL, start, 0.0)


def test_the_patch_projection_is_xaviers() -> None:
    """torch's own `xavier_uniform_` of the projection as a matrix has the same bound; ViT-S/16: ±0.072."""
    model = built(VitStartConfig("xavier", 0.02))
    weight = model.patch_embed.proj.weight
    matrix = torch.nn.init.xavier_uniform_(torch.empty(384, 3 * 16 * 16))
    assert weight.abs().max() <= math.sqrt(6 / (768 + 384)) == pytest.approx(0.0722, abs=1e-4)
    assert float(weight.detach().std()) == pytest.approx(float(matrix.std()), rel=0.02)
    assert not model.patch_embed.proj.bias.any()
    assert float(model.cls_token.detach().std()) == pytest.approx(0.02, rel=0.15)


def test_all_other_weights_are_timms() -> None:
    torch.manual_seed(0)
    plain = build_backbone(SMALL).state_dict()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in built(VitStartConfig()).state_dict().items())
    started = built(VitStartConfig("xavier", 0.02)).state_dict()
    changed = {name for name, tensor in started.items() if not torch.equal(tensor, plain[name])}
    assert changed == {"cls_token", "patch_embed.proj.weight", "patch_embed.proj.bias"}


@pytest.mark.parametrize(
    ("config", "start", "key"),
    [
        (BackboneConfig("resnet18", {"channels": [8, 8, 16, 16]}), VitStartConfig("xavier"), "vit_start"),
        (
            BackboneConfig("vit_tiny_patch16_224", {"depth": 1, "class_token": False, "global_pool": ""}),
            VitStartConfig(class_token_std=0.02),
            "class_token_std",
        ),
    ],
)
def test_a_start_that_the_network_lacks(config: BackboneConfig, start: VitStartConfig, key: str) -> None:
    with pytest.raises(UserError, match=key):
        build_started(config, start, 0.0)
