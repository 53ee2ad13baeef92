"""core/backbones/timm_models.py: timm's models start as timm's do, and take only arguments that shape them."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.layers import DropPath

from core.backbones import BackboneConfig, build_backbone
from core.backbones.timm_models import module_of
from core.errors import UserError


def test_weights_come_from_the_global_seed_and_equal_plain_timm() -> None:
    torch.manual_seed(3)
    ours = build_backbone(BackboneConfig("resnet18")).state_dict()
    torch.manual_seed(3)
    plain = timm.create_model("resnet18", num_classes=0).state_dict()
    assert ours.keys() == plain.keys()
    assert all(torch.equal(ours[name], plain[name]) for name in ours)
    assert ours["layer1.0.bn2.weight"].abs().max() == 0
    started_otherwise = build_backbone(BackboneConfig("resnet18", {"zero_init_last": False}))
    assert started_otherwise.layer1[0].bn2.weight.min() == 1  # type: ignore[index,union-attr]


@pytest.mark.parametrize(
    ("args", "key"),
    [
        ({"depth": 3}, "depth"),
        ({"num_classes": 10}, "num_classes"),
        ({"layers": [1, 1, 1, 5000]}, "5003"),
    ],
)
def test_unfit_arguments_are_refused(args: dict[str, object], key: str) -> None:
    with pytest.raises(UserError, match=key):
        build_backbone(BackboneConfig("resnet18", args))


def test_models_are_distinguished_by_the_module_that_defines_them() -> None:
    assert module_of("resnet18") == "resnet"
    assert module_of("resnetv2_50") == "resnetv2"
    assert module_of("no_such_model") is None


def test_drop_path_0_is_none_whatever_timms_default_is() -> None:
    args = {"img_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4}
    drops = [
        [module.drop_prob for module in build_backbone(config, rate).modules() if isinstance(module, DropPath)]
        for config in [BackboneConfig("swin_tiny_patch4_window7_224", args)]
        for rate in (0.0, 0.2)
    ]
    assert sum(drops[0]) == 0
    assert max(drops[1]) == pytest.approx(0.2)
