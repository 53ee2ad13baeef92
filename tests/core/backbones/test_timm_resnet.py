"""core/backbones/timm_resnet.py: vectors and maps are those of timm's own methods."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.backbones import BackboneConfig, build_backbone, family_of, feature_width, pooled_features
from core.errors import UserError

NARROW = {"channels": [8, 16, 24, 32]}
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_vector_is_the_mean_of_the_last_map() -> None:
    model = build_backbone(BackboneConfig("resnet18", NARROW)).eval()
    assert feature_width(model) == 32
    torch.testing.assert_close(pooled_features(model, IMAGES), model(IMAGES), rtol=0, atol=1e-6)
    assert torch.equal(pooled_features(model, IMAGES, "avg"), pooled_features(model, IMAGES))


@pytest.mark.parametrize(
    ("name", "stem", "args", "strides"),
    [
        ("resnet18", "imagenet", {}, [4, 8, 16, 32]),
        ("resnet18", "small", {}, [1, 2, 4, 8]),
        ("resnet50", "imagenet", {"output_stride": 8}, [4, 8, 8, 8]),
        ("resnet50d", "imagenet", {}, [4, 8, 16, 32]),
    ],
)
def test_maps_are_those_of_timm_at_their_strides(
    name: str, stem: Any, args: dict[str, Any], strides: list[int]
) -> None:
    model: Any = build_backbone(BackboneConfig(name, NARROW | args, stem)).eval()
    family = family_of(model)
    with torch.inference_mode():
        maps = family.maps(model, IMAGES)
        expected = model.forward_intermediates(IMAGES, indices=[1, 2, 3, 4], intermediates_only=True)
        assert torch.equal(family.maps(model, IMAGES, [2, 0])[1][1], expected[0])
    assert [stride for stride, _ in maps] == strides
    assert [64 // x.shape[-1] for _, x in maps] == strides
    assert [x.shape[1] for _, x in maps] == family.channels(model)
    assert all(torch.equal(x, y) for (_, x), y in zip(maps, expected, strict=True))


@pytest.mark.parametrize(("stem", "side"), [("small", 4), ("small_padded", 5)])
def test_small_stems_keep_the_resolution(stem: Any, side: int) -> None:
    model: Any = build_backbone(BackboneConfig("resnet18", NARROW, stem))
    assert model.conv1.weight.shape == (64, 3, 3, 3)
    # Stride 8 instead of 32; (32 + 2) / 8 rounded up with the wider border.
    assert model.forward_features(IMAGES[..., :32, :32]).shape == (2, 32, side, side)


def test_only_average_pooling_and_one_layer() -> None:
    model = build_backbone(BackboneConfig("resnet18", NARROW))
    with pytest.raises(UserError, match=r"\bavg\b"):
        pooled_features(model, IMAGES, "cls")
    groups = family_of(model).layer_groups(model)
    assert (set(groups.layers.values()), groups.top) == ({0}, 0)
    assert family_of(model).input_multiple(model) == (1, 1)
    assert family_of(model).image_side(model) is None
