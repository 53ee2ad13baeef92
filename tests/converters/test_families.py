"""converters/families.py: each family's key layout, written from a source model, opens to the same features."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from converters.open import open_backbone, open_with_account
from core.backbones import BackboneConfig
from core.errors import UserError

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def resnets() -> list[nn.Module]:
    """Two torchvision ResNet-18 with different weights and running statistics."""
    return [_trained(torchvision.models.resnet18(num_classes=5), seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def vits() -> list[nn.Module]:
    """Two timm ViTs of MoCo v3's and DINO's small width, 2 blocks deep."""
    return [_trained(_vit(), seed) for seed in (1, 2)]


def _vit(**arguments: Any) -> nn.Module:
    return timm.create_model("vit_small_patch16_224", depth=2, img_size=64, num_classes=0, **arguments)


def _trained(model: nn.Module, seed: int) -> nn.Module:
    """Every tensor of the model random: no layer is left in its special initial state."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(seed)
        elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(0, 0.05, generator=generator)
    return model.eval()


def _resnet_map(model: nn.Module) -> Tensor:
    x = model.maxpool(model.relu(model.bn1(model.conv1(IMAGES))))
    return model.layer4(model.layer3(model.layer2(model.layer1(x))))


def _prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def _without_head(model: nn.Module) -> State:
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("fc.")}


def _mlp(prefix: str) -> State:
    return {f"{prefix}.0.weight": torch.randn(4, 4), f"{prefix}.1.running_mean": torch.randn(4)}


def _children(model: nn.Module) -> State:
    return nn.Sequential(*list(model.children())[:-1]).state_dict()


def _mulan(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    networks = [
        _prefixed(_without_head(model), "module.backbone.")
        | _mlp("module.projector")
        | _mlp("module.predictors.global")
        | _mlp("module.predictors.cutout")
        for model in (a, b)
    ]
    optimizer = {"state": {0: {"mu": torch.randn(2)}}, "param_groups": [{"lr": 0.1}]}
    return {
        "epoch": 7,
        "online_model": networks[0],
        "target_model": _prefixed({k.removeprefix("module."): v for k, v in networks[1].items()}, ""),
        "optimizer": optimizer,
        "scaler": {"scale": 1.0},
    }


def _dino(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    head = {"head.mlp.0.weight": torch.randn(4, 4), "head.last_layer.weight_g": torch.randn(4, 1)}
    return {
        "student": _prefixed(_prefixed(_without_head(a), "backbone.") | head, "module."),
        "teacher": _prefixed(_without_head(b), "backbone.") | head,
        "epoch": 100,
        "args": Namespace(arch="vit_small", patch_size=16, output_dir="x"),
        "dino_loss": {"center": torch.zeros(1, 4)},
    }


def _moco_v2(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    state = _prefixed(a.state_dict(), "module.encoder_q.") | _prefixed(b.state_dict(), "module.encoder_k.")
    return {"epoch": 200, "arch": "resnet50", "state_dict": state | {"module.queue": torch.randn(4, 4)}}


def _moco_v3(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    nets = [_without_head(model) | _mlp("fc") for model in (a, b)]
    state = _prefixed(nets[0], "module.base_encoder.") | _prefixed(nets[1], "module.momentum_encoder.")
    return {"epoch": 300, "state_dict": state | _mlp("module.predictor"), "scaler": {}, "optimizer": {}}


def _simsiam(a: nn.Module, _b: nn.Module) -> dict[str, Any]:
    encoder = _without_head(a) | _mlp("fc")
    return {"epoch": 100, "state_dict": _prefixed(encoder, "module.encoder.") | _mlp("module.predictor")}


def _solo(a: nn.Module, b: nn.Module, old: bool = False) -> dict[str, Any]:
    word = "encoder" if old else "backbone"
    state = _prefixed(_without_head(a), f"{word}.") | _prefixed(_without_head(b), f"momentum_{word}.")
    state |= {"classifier.weight": torch.randn(5, 4)} | _mlp("projector") | _mlp("momentum_projector")
    return {"epoch": 999, "pytorch-lightning_version": "1.6", "state_dict": state, "callbacks": {}, "loops": None}


def _lightly(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    state = _prefixed(_children(a), "backbone.") | _prefixed(_children(b), "backbone_momentum.")
    return {"state_dict": state | _mlp("projection_head.layers") | _mlp("prediction_head.layers")}


def _lightly_student(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    state = _prefixed(_children(a), "student_backbone.") | _prefixed(_children(b), "teacher_backbone.")
    return {"state_dict": state | _mlp("student_head.layers")}


def _mmselfsup(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    state = _prefixed(_without_head(a), "backbone.") | _prefixed(_without_head(b), "target_net.module.0.")
    return {"meta": {"epoch": 200}, "state_dict": state | _mlp("neck.fc0") | _mlp("target_net.module.1.fc0")}


def _mm_moco(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    state = _prefixed(_without_head(a), "encoder_q.0.") | _prefixed(_without_head(b), "encoder_k.0.")
    return {"meta": {"epoch": 200}, "state_dict": state | _mlp("encoder_q.1.mlp")}


def _timm_ema(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    return {"arch": "resnet18", "state_dict": a.state_dict(), "state_dict_ema": b.state_dict(), "version": 2}


@pytest.mark.parametrize(
    ("layout", "family"),
    [
        (_mulan, "MULAN's public code"),
        (_dino, "DINO"),
        (_moco_v2, "MoCo v2"),
        (_moco_v3, "MoCo v3"),
        (_simsiam, "SimSiam"),
        (_solo, "solo-learn"),
        (lambda a, b: _solo(a, b, old=True), "solo-learn"),
        (_lightly, "lightly"),
        (_lightly_student, "lightly"),
        (_mmselfsup, "OpenMMLab"),
        (_mm_moco, "OpenMMLab"),
        (_timm_ema, "timm with averaged weights"),
    ],
)
def test_both_networks_of_a_resnet_family(
    tmp_path: Path, resnets: list[nn.Module], layout: Callable[..., dict[str, Any]], family: str
) -> None:
    path = tmp_path / "checkpoint.pth"
    document = layout(*resnets)
    torch.save(document, path)
    online = open_backbone(str(path))
    assert online.config == BackboneConfig("resnet18")
    assert online.origin["family"].startswith(family)
    assert f"({family}, " in online.source
    assert torch.equal(online.model.forward_features(IMAGES), _resnet_map(resnets[0]))
    if family == "SimSiam":
        with pytest.raises(UserError, match=r"SimSiam.* has no target network; it holds the online one"):
            open_backbone(str(path), "target")
    else:
        target = open_backbone(str(path), "target")
        assert target.origin["network"] == "target"
        assert torch.equal(target.model.forward_features(IMAGES), _resnet_map(resnets[1]))
    epoch = document.get("epoch", document.get("meta", {}).get("epoch"))
    assert online.origin.get("epoch") == (None if epoch is None else str(epoch))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model.state_dict(),  # torchvision, and timm's own ResNets
        lambda model: _without_head(model),  # DINO's ResNet-50, backbone.pth of MULAN's code, extracted mm backbones
        lambda model: {"state_dict": _prefixed(model.state_dict(), "module.")},  # MoCo's linear evaluation
        lambda model: {"model": _prefixed(model.state_dict(), "_orig_mod.module.")},
        lambda model: {"meta": {}, "state_dict": _without_head(model)},
        lambda model: {"state_dict": _without_head(model) | _mlp("projection_head") | {"prototypes.weight": IMAGES}},
        lambda model: {"model": _prefixed(_without_head(model), "module.backbone.") | _mlp("module.projector")},
        lambda model: {
            "classy_state_dict": {
                "base_model": {"model": {"trunk": _prefixed(_without_head(model), "_feature_blocks."), "heads": {}}}
            }
        },
    ],
)
def test_files_with_a_single_resnet(
    tmp_path: Path, resnets: list[nn.Module], wrap: Callable[[nn.Module], dict[str, Any]]
) -> None:
    torch.save(wrap(resnets[0]), tmp_path / "weights.pth")
    backbone = open_backbone(str(tmp_path / "weights.pth"))
    assert torch.equal(backbone.model.forward_features(IMAGES), _resnet_map(resnets[0]))
    assert backbone.config.mean == (0.485, 0.456, 0.406)


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
        lambda state: {"student": _prefixed(state, "module.backbone."), "teacher": _prefixed(state, "backbone.")},
        lambda state: {"model": state | {"mask_token": IMAGES, "decoder_blocks.0.attn.qkv.weight": IMAGES}},
        lambda state: _torchvision_vit_names(state) | {"heads.head.weight": torch.randn(5, 384)},
        lambda state: {"meta": {}, "state_dict": _prefixed(_mm_vit_names(state, "mmpretrain"), "backbone.")},
        lambda state: {"meta": {}, "state_dict": _mm_vit_names(state, "mmseg")},
    ],
)
def test_vit_families(tmp_path: Path, vits: list[nn.Module], wrap: Callable[[State], dict[str, Any]]) -> None:
    torch.save(wrap(vits[0].state_dict()), tmp_path / "weights.pth")
    backbone = open_backbone(str(tmp_path / "weights.pth"))
    assert backbone.config == BackboneConfig("vit_small_patch16_224", {"depth": 2, "img_size": 64})
    assert "6 attention heads assumed" in backbone.source
    expected = vits[0].forward_features(IMAGES)
    torch.testing.assert_close(backbone.model.forward_features(IMAGES), expected, rtol=0, atol=1e-5)


def test_torchvisions_own_vit_gives_the_same_class_token(tmp_path: Path) -> None:
    vit = torchvision.models.VisionTransformer(64, 16, 2, 6, 384, 4 * 384, num_classes=5)
    _trained(vit, 3)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    backbone = open_backbone(str(tmp_path / "vit.pth"))
    vit.heads = nn.Identity()
    torch.testing.assert_close(backbone.model.forward_features(IMAGES)[:, 0], vit(IMAGES), rtol=0, atol=1e-5)


def test_moco_v3_vit_small_has_12_heads(tmp_path: Path) -> None:
    vit = _trained(_vit(num_heads=12), 1)
    vit.pos_embed.data = _moco_positions(4, 384)
    state = _prefixed(vit.state_dict(), "module.base_encoder.") | _mlp("module.base_encoder.head")
    torch.save({"state_dict": state | _mlp("module.predictor")}, tmp_path / "moco.pth.tar")
    backbone = open_backbone(str(tmp_path / "moco.pth.tar"))
    assert backbone.config.args == {"depth": 2, "img_size": 64, "num_heads": 12}
    expected = vit.forward_features(IMAGES)
    torch.testing.assert_close(backbone.model.forward_features(IMAGES), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
        {"global_pool": "avg"},  # final norm after pooling
        {"qkv_bias": False},
        {"no_embed_class": True, "reg_tokens": 4},
        {"init_values": 1e-5},
        {"pre_norm": True},
        {"mlp_ratio": 2.0},
        {"patch_size": 8},
        {"pos_embed": "none"},
    ],
)
def test_vit_variants_are_read_off_the_weights(tmp_path: Path, arguments: dict[str, Any]) -> None:
    vit = _trained(_vit(**arguments), 1)
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    backbone = open_backbone(str(tmp_path / "vit.pth"))
    expected = vit.forward_features(IMAGES)
    torch.testing.assert_close(backbone.model.forward_features(IMAGES), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("vit_tiny_patch16_224", {}, BackboneConfig("vit_tiny_patch16_224")),
        ("vit_small_patch16_224", {}, BackboneConfig("vit_small_patch16_224")),
        ("vit_base_patch16_224", {"img_size": 384}, BackboneConfig("vit_base_patch16_224", {"img_size": 384})),
        ("vit_small_patch8_224", {}, BackboneConfig("vit_small_patch8_224")),
        ("resnet34", {}, BackboneConfig("resnet34")),
        ("resnet50", {}, BackboneConfig("resnet50")),
        ("resnet101", {}, BackboneConfig("resnet101")),
        ("resnet152", {}, BackboneConfig("resnet152")),
        ("wide_resnet50_2", {}, BackboneConfig("wide_resnet50_2")),
        ("resnext50_32x4d", {}, BackboneConfig("resnext50_32x4d")),
        ("resnet18", {"channels": (8, 16, 24, 32)}, BackboneConfig("resnet18", {"channels": [8, 16, 24, 32]})),
        ("resnet50", {"channels": (8, 16, 24, 32)}, BackboneConfig("resnet50", {"channels": [8, 16, 24, 32]})),
        ("resnet18", {"layers": (1, 1, 1, 1)}, BackboneConfig("resnet18", {"layers": [1, 1, 1, 1]})),
    ],
)
def test_architectures_are_read_off_the_shapes(
    tmp_path: Path, name: str, arguments: dict[str, Any], expected: BackboneConfig
) -> None:
    torch.save(timm.create_model(name, num_classes=0, **arguments).state_dict(), tmp_path / "weights.pth")
    assert open_backbone(str(tmp_path / "weights.pth")).config == expected


@pytest.mark.parametrize(("layout", "border", "stem"), [(_solo, 2, "small_padded"), (_mulan, 1, "small")])
def test_small_stems_have_the_border_of_their_family(
    tmp_path: Path, layout: Callable[..., dict[str, Any]], border: int, stem: str
) -> None:
    model = torchvision.models.resnet18()
    model.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=border, bias=False)
    model.maxpool = nn.Identity()
    _trained(model, 1)
    torch.save(layout(model, model), tmp_path / "cifar.ckpt")
    backbone = open_backbone(str(tmp_path / "cifar.ckpt"))
    assert backbone.config.stem == stem
    assert f"border {border}" in backbone.source
    assert torch.equal(backbone.model.forward_features(IMAGES), _resnet_map(model))


def test_every_tensor_is_accounted_for(tmp_path: Path, resnets: list[nn.Module]) -> None:
    torch.save(_moco_v2(*resnets), tmp_path / "moco.pth.tar")
    _, table = open_with_account(str(tmp_path / "moco.pth.tar"))
    assert not table.matched
    assert ("state_dict.module.encoder_q.conv1.weight", "conv1.weight") in table.renamed
    assert len(table.renamed) == 120
    reasons = dict(table.dropped)
    assert reasons["state_dict.module.encoder_q.fc.weight"] == "head or projector on top of the backbone"
    assert reasons["state_dict.module.encoder_k.conv1.weight"] == "target network"
    assert reasons["state_dict.module.queue"] == "bookkeeping of the method"
    assert len(reasons) == 2 + 122 + 1
    assert table.summary() == "0 matched, 120 renamed, 125 dropped"
    assert "  state_dict.module.encoder_q.bn1.bias -> bn1.bias" in table.text().splitlines()


def test_absent_batch_counters_become_zero_and_are_named(tmp_path: Path, resnets: list[nn.Module]) -> None:
    state = {name: t for name, t in resnets[0].state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    backbone, table = open_with_account(str(tmp_path / "old.pth"))
    assert "20 absent num_batches_tracked set to 0" in backbone.source
    assert len(table.filled) == 20
    assert int(backbone.model.bn1.num_batches_tracked) == 0
    assert torch.equal(backbone.model.forward_features(IMAGES), _resnet_map(resnets[0]))


def test_a_tensor_left_over_inside_the_backbone_is_an_error(tmp_path: Path, resnets: list[nn.Module]) -> None:
    state = _without_head(resnets[0])
    torch.save(state | {"layer1.0.se.fc1.weight": torch.randn(4)}, tmp_path / "more.pth")
    with pytest.raises(UserError, match=r"0 missing, 1 unexpected, .*layer1\.0\.se\.fc1\.weight"):
        open_backbone(str(tmp_path / "more.pth"))
    state.pop("layer4.1.bn2.bias")
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(UserError, match=r"1 missing, 0 unexpected, .*layer4\.1\.bn2\.bias"):
        open_backbone(str(tmp_path / "less.pth"))


def test_lightlys_own_network_is_refused(tmp_path: Path) -> None:
    state = {"backbone.0.weight": torch.randn(64, 3, 3, 3), "backbone.2.0.conv1.weight": torch.randn(64, 64, 3, 3)}
    torch.save({"state_dict": state}, tmp_path / "own.ckpt")
    with pytest.raises(UserError, match="lacks the ReLU after the stem"):
        open_backbone(str(tmp_path / "own.ckpt"))
