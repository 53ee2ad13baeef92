"""converters/resolve.py: tensors that fit several networks are decided explicitly, or refused with the candidates."""

from __future__ import annotations

import itertools
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from converters.inference.hints import Hints
from converters.open import open_backbone
from converters.resolve import ASSUMED, resolve
from converters.settings.side_files import SideSettings, read_side_files
from core.backbones import BackboneConfig
from core.compute.shapes import nothing_drawn, shapes_only
from core.errors import UserError
from tests.converters.family_weights import IMAGES, State, mlp, prefixed, trained


def _shapes(name: str, **arguments: Any) -> State:
    """State dict of timm's model on the meta device."""
    with shapes_only():
        state = timm.create_model(name, num_classes=0, **arguments).state_dict()
    if "pos_embed" in state:
        state["pos_embed"] = torch.zeros(state["pos_embed"].shape)
    return state


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("vit_base_patch32_clip_224", {"vit_base_patch32_clip_224", "vit_base_patch32_clip_quickgelu_224"}),
        ("vit_base_patch32_clip_quickgelu_224", {"vit_base_patch32_clip_224", "vit_base_patch32_clip_quickgelu_224"}),
        ("vit_base_patch16_rpn_224", {"vit_base_patch16_rpn_224"}),
        ("vit_base_patch32_siglip_gap_256", {"vit_base_patch32_siglip_gap_256"}),
    ],
)
def test_several_networks_are_refused_and_arch_decides(name: str, candidates: set[str]) -> None:
    state = _shapes(name)
    with pytest.raises(UserError, match=r"weights\.pth.*--arch") as caught:
        resolve(state, None, "weights.pth")
    assert candidates <= set(re.findall(r"[\w.]+", str(caught.value)))
    settings = timm.get_pretrained_cfg(name)
    found = resolve(state, name, "weights.pth")
    assert found.config == BackboneConfig(name, mean=settings.mean, std=settings.std)
    assert found.normalisation == f"timm's {name}"
    for other in candidates - {name}:
        assert resolve(state, other, "weights.pth").config.name == other


def test_a_norm_before_the_blocks_is_decided_at_any_size(tmp_path: Path) -> None:
    """eps 1e-6 and GELU, eps 1e-5 and GELU, eps 1e-5 and QuickGELU: three functions with the same tensors."""
    size = "depth=2, img_size=64, patch_size=16, embed_dim=384, num_heads=6"
    path = tmp_path / "vit.pth"
    outputs = []
    for name, more in (
        ("vit_small_patch16_224", ", pre_norm=True"),
        ("vit_base_patch32_clip_224", ""),
        ("vit_base_patch32_clip_quickgelu_224", ""),
    ):
        arguments = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", size)}
        vit = trained(timm.create_model(name, num_classes=0, **arguments | ({"pre_norm": True} if more else {})), 1)
        torch.save(vit.state_dict(), path)
        with pytest.raises(UserError, match=r"vit\.pth.*clip_quickgelu"):
            open_backbone(str(path))
        features = open_backbone(str(path), arch=f"{name}({size}{more})").model.forward_features(IMAGES)
        torch.testing.assert_close(features, vit.forward_features(IMAGES), rtol=0, atol=1e-5)
        outputs.append(features)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(outputs, 2))


def test_heads_of_published_giants_and_of_families() -> None:
    assert resolve(_shapes("vit_giant_patch14_224"), None, "x").config.args["num_heads"] == 16
    small = _shapes("vit_small_patch16_224")
    assert "num_heads" not in resolve(small, None, "x").config.args
    assert resolve(small, None, "x", Hints("solo-learn", heads={384: 12})).config.args == {"num_heads": 12}


def test_solo_learns_small_mae_has_12_heads_and_its_other_vits_6(tmp_path: Path) -> None:
    for heads, more in ((12, {"decoder.decoder_embed.weight": torch.ones(4, 4)}), (6, mlp("projector"))):
        vit = trained(
            timm.create_model("vit_small_patch16_224", depth=2, img_size=64, num_classes=0, num_heads=heads), heads
        )
        state = prefixed(vit.state_dict(), "backbone.") | more | {"classifier.weight": torch.ones(5, 384)}
        torch.save({"state_dict": state, "epoch": 1}, tmp_path / f"{heads}.ckpt")
        backbone = open_backbone(str(tmp_path / f"{heads}.ckpt"))
        torch.testing.assert_close(
            backbone.model.forward_features(IMAGES), vit.forward_features(IMAGES), rtol=0, atol=1e-5
        )


@cache
def _trained_resnetaa() -> nn.Module:
    with nothing_drawn():  # each tensor is drawn by `trained`
        return trained(timm.create_model("resnetaa50", num_classes=0), 1)


def _resnetaa(folder: Path, **beside: Any) -> tuple[nn.Module, str]:
    """A file whose tensors are ResNet-50's although its network smooths before it strides."""
    model = _trained_resnetaa()
    torch.save({"state_dict": model.state_dict(), **beside}, folder / "weights.pth")
    return model, str(folder / "weights.pth")


@pytest.mark.parametrize("by", ["config.json", "arch", "--arch"])
def test_a_resnet_that_smooths_is_the_named_one(tmp_path: Path, by: str) -> None:
    model, path = _resnetaa(tmp_path, **({"arch": "resnetaa50"} if by == "arch" else {}))
    if by == "config.json":
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnetaa50"}))
    backbone = open_backbone(path, arch="resnetaa50" if by == "--arch" else None)
    assert backbone.config.name == "resnetaa50"
    assert torch.equal(backbone.model.forward_features(IMAGES), model.forward_features(IMAGES))


def test_a_resnet_of_which_nothing_is_known_is_plain_and_the_plan_names_the_others(tmp_path: Path) -> None:
    _, path = _resnetaa(tmp_path)
    backbone = open_backbone(path)
    assert backbone.config.name == "resnet50"
    assert all(word in backbone.source for word in ("assumed", "--arch", "resnetaa50", "resnetblur50", "SAME"))


@pytest.mark.parametrize(("arch", "rule"), [(None, "timm"), ("dinov2", "dinov2"), ("timm", "timm")])
def test_the_rule_for_positions_is_assumed_unless_it_is_given(tmp_path: Path, arch: str | None, rule: str) -> None:
    made = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0)
    torch.save(made.state_dict(), tmp_path / "vit.pth")
    given = None if arch is None else f"vit_tiny_patch16_224(depth=1, pos_resize={arch})"
    backbone = open_backbone(str(tmp_path / "vit.pth"), arch=given)
    assert backbone.config.pos_resize == rule
    assert ("--pos-resize" in backbone.source) == (arch is None)


def test_a_name_of_the_projects_own_is_ignored() -> None:
    for declared in ("vit_base", "resnet34", "no model"):
        assert resolve(_shapes("resnet18"), None, "x", declared=declared).config == BackboneConfig("resnet18")


def test_a_config_that_contradicts_the_tensors_is_refused() -> None:
    with pytest.raises(UserError, match=r"weights\.pth.*resnet34.*config\.json"):
        resolve(_shapes("resnet18"), None, "weights.pth", side=SideSettings("resnet34"))


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    model = timm.create_model("resnet18", num_classes=0, channels=(8, 8, 8, 8))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


_HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"pretrained_cfg": _HALF}),
        ("config.json", _HALF),
        ("preprocessor_config.json", {"image_mean": _HALF["mean"], "image_std": _HALF["std"]}),
        (None, None),
    ],
)
def test_mean_and_std_come_from_what_lies_beside_the_file(
    small_file: Path, file: str | None, values: dict[str, Any]
) -> None:
    if file is not None:
        small_file.with_name(file).write_text(json.dumps(values))
    backbone = open_backbone(str(small_file))
    assert backbone.origin["normalisation"] == (file or ASSUMED)
    assert ("std assumed" in backbone.source) == (file is None)
    assert backbone.config.mean == ((0.5, 0.5, 0.5) if file else BackboneConfig().mean)
    assert backbone.config.std == ((0.25, 0.25, 0.25) if file else BackboneConfig().std)


def test_mean_and_std_can_be_given(small_file: Path) -> None:
    arch = "resnet18(channels=[8,8,8,8], mean=[0.1,0.2,0.3], std=[0.4,0.5,0.6])"
    backbone = open_backbone(str(small_file), arch=arch)
    assert (backbone.config.mean, backbone.config.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert backbone.config.args == {"channels": [8, 8, 8, 8]}
    assert backbone.origin["normalisation"] == "--arch"
    printed = "resnet18(channels=[8,8,8,8], mean=[0.485,0.456,0.406], std=[0.229,0.224,0.225])"
    backbone = open_backbone(str(small_file), arch=printed)  # ImageNet's, but nothing is assumed
    assert (backbone.config.mean, backbone.origin["normalisation"]) == (BackboneConfig().mean, "--arch")
    assert "std assumed" not in backbone.source
    with pytest.raises(UserError, match="std belong together"):
        open_backbone(str(small_file), arch="resnet18(channels=[8,8,8,8], mean=[0.1,0.2,0.3])")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 100_000,
        '{"mean": [1, 2], "std": [1, 1, 1]}',
        '{"mean": "x", "std": [1, 1, 1]}',
        '{"mean": [1, 1, 1], "std": [0, 1, 1]}',
    ],
)
def test_unusable_settings_beside_a_file_are_one_sentence(small_file: Path, content: str) -> None:
    small_file.with_name("config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json") as caught:
        read_side_files(small_file)
    assert "\n" not in str(caught.value)


def test_other_settings_beside_a_file_say_nothing(small_file: Path) -> None:
    small_file.with_name("config.json").write_text('{"model_type": "x", "architectures": ["Y"]}')
    assert read_side_files(small_file) == SideSettings()
    small_file.with_name("config.json").write_text("[1]")
    assert read_side_files(small_file) == SideSettings()


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_hub_folder_opens_with_its_settings(tmp_path: Path, file: str) -> None:
    model = trained(timm.create_model("resnet18", num_classes=3, channels=(8, 8, 8, 8)), 1)
    if file.endswith("bin"):
        torch.save(model.state_dict(), tmp_path / file)
    else:
        save_file(model.state_dict(), tmp_path / file, {"format": "pt"})
    settings = {"architecture": "resnet18", "model_args": {"channels": [8, 8, 8, 8]}, "pretrained_cfg": _HALF}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    backbone = open_backbone(str(tmp_path))
    assert backbone.config == BackboneConfig(
        "resnet18", {"channels": [8, 8, 8, 8]}, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
    )
    assert torch.equal(backbone.model.forward_features(IMAGES), model.forward_features(IMAGES))
