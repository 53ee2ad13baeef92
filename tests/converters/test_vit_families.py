"""converters/families/__init__.py: each family's key layout of ViTs, and their variants, open to the same features."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from converters.open import open_backbone
from core.backbones import BackboneConfig
from tests.converters.family_weights import IMAGES, State, mlp, prefixed, trained


@pytest.fixture(scope="module")
def vits() -> list[nn.Module]:
    """Two timm ViTs of MoCo v3's and DINO's small width, 2 blocks deep."""
    return [trained(_vit(), seed) for seed in (1, 2)]


def _vit(**arguments: Any) -> nn.Module:
    return timm.create_model("vit_small_patch16_224", depth=2, img_size=64, num_classes=0, **arguments)


def _moco_positions(side: int, width: int) -> Tensor:
    """The fixed embedding, entry by entry, from its closed form; the class token's is zero."""
    table = np.zeros((1 + side * side, width), dtype=np.float32)
    for row in range(side):
        for column in range(side):
            for index in range(width // 4):
                frequency = 10000 ** (-index / (width // 4))
                values = (np.sin(row * frequency), np.cos(row * frequency))
                values += (np.sin(column * frequency), np.cos(column * frequency))
                table[1 + row * side + column, index :: width // 4] = values
    return torch.from_numpy(table)[None]


def _torchvision_vit_names(state: State) -> State:
    renamed = {}
    for name, tensor in state.items():
        for old, new in (
            (r"blocks\.(\d+)\.norm(\d)", r"encoder.layers.encoder_layer_\1.ln_\2"),
            (r"blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.encoder_layer_\1.self_attention.in_proj_"),
            (r"blocks\.(\d+)\.attn\.proj", r"encoder.layers.encoder_layer_\1.self_attention.out_proj"),
            (r"blocks\.(\d+)\.mlp\.fc1", r"encoder.layers.encoder_layer_\1.mlp.0"),
            (r"blocks\.(\d+)\.mlp\.fc2", r"encoder.layers.encoder_layer_\1.mlp.3"),
            (r"^norm\.", "encoder.ln."),
            ("cls_token", "class_token"),
            ("pos_embed", "encoder.pos_embedding"),
            (r"patch_embed\.proj", "conv_proj"),
        ):
            name = re.sub(old, new, name)
        renamed[name] = tensor
    return renamed


def _mm_vit_names(state: State, library: str) -> State:
    renamed = {}
    for name, tensor in state.items():
        name = name.replace("patch_embed.proj.", "patch_embed.projection.").replace("blocks.", "layers.")
        name = re.sub(r"^norm\.", "ln1.", re.sub(r"\.norm(\d)\.", r".ln\1.", name))
        name = name.replace("mlp.fc1.", "ffn.layers.0.0.").replace("mlp.fc2.", "ffn.layers.1.")
        if library == "mmseg":
            name = name.replace("attn.qkv.", "attn.attn.in_proj_").replace("attn.proj.", "attn.attn.out_proj.")
        renamed[name] = tensor
    return renamed


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,  # timm's, and DINO's and MULAN's released weights
        lambda state: {"model": state | {"head.weight": torch.randn(5, 384), "head.bias": torch.randn(5)}},
        lambda state: {"student": prefixed(state, "module.backbone."), "teacher": prefixed(state, "backbone.")},
        lambda state: {"model": state | {"mask_token": IMAGES, "decoder_blocks.0.attn.qkv.weight": IMAGES}},
        lambda state: _torchvision_vit_names(state) | {"heads.head.weight": torch.randn(5, 384)},
        lambda state: {"meta": {}, "state_dict": prefixed(_mm_vit_names(state, "mmpretrain"), "backbone.")},
        lambda state: {"meta": {}, "state_dict": _mm_vit_names(state, "mmseg")},
    ],
)
def test_vit_families(tmp_path: Path, vits: list[nn.Module], wrap: Callable[[State], dict[str, Any]]) -> None:
    torch.save(wrap(vits[0].state_dict()), tmp_path / "weights.pth")
    backbone = open_backbone(str(tmp_path / "weights.pth"))
    rule = backbone.config.pos_resize
    rules = {"DINO": "dinov2", "OpenMMLab": "bicubic"}
    assert rule == next((rule for name, rule in rules.items() if name in backbone.origin["family"]), "timm")
    assert backbone.config == BackboneConfig("vit_small_patch16_224", {"depth": 2, "img_size": 64}, pos_resize=rule)
    assert "6 attention heads" in backbone.source
    expected = vits[0].forward_features(IMAGES)
    torch.testing.assert_close(backbone.model.forward_features(IMAGES), expected, rtol=0, atol=1e-5)


def test_torchvisions_own_vit_gives_the_same_class_token(tmp_path: Path) -> None:
    vit = torchvision.models.VisionTransformer(64, 16, 2, 6, 384, 4 * 384, num_classes=5)
    trained(vit, 3)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    backbone = open_backbone(str(tmp_path / "vit.pth"))
    vit.heads = nn.Identity()
    torch.testing.assert_close(backbone.model.forward_features(IMAGES)[:, 0], vit(IMAGES), rtol=0, atol=1e-5)


def test_moco_v3_vit_small_has_12_heads(tmp_path: Path) -> None:
    vit = trained(_vit(num_heads=12), 1)
    vit.pos_embed.data = _moco_positions(4, 384)
    state = prefixed(vit.state_dict(), "module.base_encoder.") | mlp("module.base_encoder.head")
    torch.save({"state_dict": state | mlp("module.predictor")}, tmp_path / "moco.pth.tar")
    backbone = open_backbone(str(tmp_path / "moco.pth.tar"))
    assert backbone.config.args == {"depth": 2, "img_size": 64, "num_heads": 12}
    expected = vit.forward_features(IMAGES)
    torch.testing.assert_close(backbone.model.forward_features(IMAGES), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
        {"class_token": False, "global_pool": "avg", "fc_norm": False, "final_norm": False},
        {"global_pool": "avg"},  # final norm after pooling
        {"qkv_bias": False},
        {"no_embed_class": True, "reg_tokens": 4},
        {"init_values": 1e-5},
        {"mlp_ratio": 2.0},
        {"patch_size": 8},
        {"pos_embed": "none"},
    ],
)
def test_vit_variants_are_read_off_the_weights(tmp_path: Path, arguments: dict[str, Any]) -> None:
    vit = trained(_vit(**arguments), 1)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    backbone = open_backbone(str(tmp_path / "vit.pth"))
    expected = vit.forward_features(IMAGES)
    torch.testing.assert_close(backbone.model.forward_features(IMAGES), expected, rtol=0, atol=1e-5)
