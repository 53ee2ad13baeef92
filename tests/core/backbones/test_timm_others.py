"""core/backbones/timm_tokens.py and timm_stages.py: vectors, tokens, maps and layers are timm's own."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from core.backbones import BackboneConfig, Tokens, build_backbone, family_of, feature_width, pooled_features
from core.errors import UserError

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}
TOKENS = [
    ("vit_small_patch16_dinov3", SMALL | {"img_size": 64}, "patches", 5),
    ("eva02_tiny_patch14_224", SMALL | {"img_size": 56}, "patches", 1),
    ("beit_base_patch16_224", SMALL | {"img_size": 64}, "patches", 1),
    ("test_vit_relpos", {"depth": 2, "img_size": 64}, "patches", 0),
]
NARROW_SWIN = {"embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 3, 4)}
STAGES = [
    ("test_convnext", {}, [4, 8, 16, 32]),
    ("test_efficientnet", {}, [2, 4, 8, 16, 32]),
    ("swin_tiny_patch4_window7_224", NARROW_SWIN, [4, 8, 16, 32]),
]


@pytest.mark.parametrize(("name", "args", "pooling", "prefix"), TOKENS)
def test_transformers_on_patches(name: str, args: dict[str, Any], pooling: str, prefix: int) -> None:
    model: Any = build_backbone(BackboneConfig(name, args)).eval()
    family, side = family_of(model), args["img_size"]
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(pooled_features(model, images), model(images))  # timm's head without its last layer
        assert family.poolings(model)[0] == pooling
        tokens: Tokens = family.tokens(model, images)
        maps = family.maps(model, images, [1, 0])
        raw, last = model.forward_intermediates(images, indices=[1])
    assert tokens.prefix.shape[1] == prefix
    assert torch.equal(torch.cat([tokens.prefix, tokens.patches], dim=1), raw)
    assert torch.equal(maps[0][1], last[0])
    assert [side // stride for stride, _ in maps] == [tokens.grid[0]] * 2 == [x.shape[-1] for _, x in maps]
    assert feature_width(model) == family.channels(model)[0] == model.num_features
    if prefix:
        torch.testing.assert_close(pooled_features(model, images, "cls"), tokens.prefix[:, 0])
        assert family.head_vector(model, images, 2, True).shape[1] == 3 * feature_width(model)
    else:
        with pytest.raises(UserError, match="pooling cls"):
            pooled_features(model, images, "cls")


def test_rotary_embeddings_take_any_size() -> None:
    model: Any = build_backbone(BackboneConfig("vit_small_patch16_dinov3", SMALL)).eval()
    assert family_of(model).tokens(model, torch.zeros(1, 3, 48, 80)).grid == (3, 5)
    assert family_of(model).input_multiple(model) == (16, 16)


@pytest.mark.parametrize(("name", "args", "strides"), STAGES)
def test_networks_in_stages(name: str, args: dict[str, Any], strides: list[int]) -> None:
    model: Any = build_backbone(BackboneConfig(name, args)).eval()
    family = family_of(model)
    images = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(pooled_features(model, images), model(images))
        maps = family.maps(model, images)
        expected = model.forward_intermediates(images, intermediates_only=True)
    assert [stride for stride, _ in maps] == strides == [96 // x.shape[2] for _, x in maps]
    assert all(torch.equal(x, y) for (_, x), y in zip(maps, expected, strict=True))
    assert [x.shape[1] for _, x in maps] == family.channels(model)
    assert feature_width(model) == model.num_features


def test_layers_are_timms_groups() -> None:
    from timm.optim import param_groups_layer_decay

    for name, args in ((TOKENS[0][0], TOKENS[0][1]), (STAGES[0][0], {}), (STAGES[2][0], STAGES[2][1])):
        model: Any = build_backbone(BackboneConfig(name, args))
        groups = family_of(model).layer_groups(model)
        with_head = timm.create_model(name, num_classes=3, **args)
        expected = param_groups_layer_decay(with_head, 0.1, layer_decay=0.5)
        scales = {id(p): group["lr_scale"] for group in expected for p in group["params"]}
        for parameter_name, parameter in with_head.named_parameters():
            layer = groups.layers.get(parameter_name, groups.top)
            assert 0.5 ** (groups.top - layer) == scales[id(parameter)], parameter_name


def test_stems_of_resnets_are_refused() -> None:
    for name in ("test_convnext", "beit_base_patch16_224"):
        with pytest.raises(UserError, match="stem"):
            build_backbone(BackboneConfig(name, stem="small"))
