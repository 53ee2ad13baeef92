"""core/backbones/__init__.py: models are timm's, features are what their names say."""

from __future__ import annotations

import pytest
import timm
import torch

from core.backbones import BackboneConfig, build_backbone, describe, feature_width, pooled_features
from core.errors import UserError

NARROW = BackboneConfig("resnet18", {"channels": [8, 16, 24, 32]})


def test_resnet_features_are_the_mean_of_timms_last_map() -> None:
    model = build_backbone(NARROW).eval()
    images = torch.randn(2, 3, 64, 64)
    assert feature_width(model) == 32
    torch.testing.assert_close(pooled_features(model, images), model(images), rtol=0, atol=1e-6)


def test_small_stem_keeps_the_resolution() -> None:
    model = build_backbone(BackboneConfig("resnet18", NARROW.args, stem="small"))
    assert model.forward_features(torch.randn(1, 3, 32, 32)).shape == (1, 32, 4, 4)  # stride 8, not 32
    assert model.conv1.weight.shape == (64, 3, 3, 3)


def test_vit_pooling_takes_class_token_or_mean_patch() -> None:
    model = build_backbone(BackboneConfig("vit_tiny_patch16_224", {"depth": 2})).eval()
    images = torch.randn(2, 3, 96, 96)  # another size than the position embeddings were made for
    tokens = model.forward_features(images)
    assert tokens.shape == (2, 1 + 36, 192)
    torch.testing.assert_close(pooled_features(model, images), tokens[:, 0])
    both = pooled_features(model, images, "cls+patches")
    assert both.shape == (2, feature_width(model, "cls+patches")) == (2, 384)
    torch.testing.assert_close(both, torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], 1))


def test_weights_come_from_the_global_seed_and_equal_plain_timm() -> None:
    torch.manual_seed(3)
    ours = build_backbone(BackboneConfig("resnet18")).state_dict()
    torch.manual_seed(3)
    plain = timm.create_model("resnet18", num_classes=0).state_dict()
    assert ours.keys() == plain.keys()
    assert all(torch.equal(ours[name], plain[name]) for name in ours)
    assert ours["layer1.0.bn2.weight"].abs().max() == 0
    started_otherwise = build_backbone(BackboneConfig("resnet18", {"zero_init_last": False}))
    assert started_otherwise.layer1[0].bn2.weight.min() == 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BackboneConfig("resnet51"), r"'resnet51'.* resnet\d"),
        (BackboneConfig("convnext_tiny"), "convnext.*ResNet.*ViT"),
        (BackboneConfig("resnet18", {"depth": 3}), "depth.*resnet18|resnet18.*depth"),
        (BackboneConfig("vit_tiny_patch16_224", stem="small"), "backbone.stem=small"),
    ],
)
def test_unfit_architectures_are_refused(config: BackboneConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_backbone(config)


def test_pooling_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match=r"\bavg\b"):
        pooled_features(build_backbone(NARROW), torch.randn(1, 3, 32, 32), "cls")


def test_description() -> None:
    assert describe(NARROW) == "resnet18(channels=[8, 16, 24, 32])"
    assert describe(BackboneConfig("resnet18", stem="small")) == "resnet18(stem=small)"
