"""converters/families: each family's key layout of ResNets, written from a source model, gives the same features."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from converters.architecture import infer
from converters.open import open_backbone, open_with_report
from core.backbones import BackboneConfig
from core.compute.shapes import shapes_only
from core.errors import UserError
from tests.converters.family_weights import IMAGES, State, mlp, prefixed, trained


class Narrow(torchvision.models.ResNet):
    """torchvision's ResNet-18 with 64, 16, 32 and 64 channels."""

    def __init__(self) -> None:
        super().__init__(torchvision.models.resnet.BasicBlock, [2, 2, 2, 2], num_classes=5)

    def _make_layer(self, block: Any, planes: int, *arguments: Any, **options: Any) -> nn.Sequential:
        return super()._make_layer(block, planes if planes == 64 else planes // 8, *arguments, **options)


CONFIG = BackboneConfig("resnet18", {"channels": [64, 16, 32, 64]})


@pytest.fixture(scope="module")
def resnets() -> list[nn.Module]:
    """Two of torchvision's ResNets with different weights and running statistics."""
    return [trained(Narrow(), seed) for seed in (1, 2)]


def _resnet_map(model: nn.Module) -> Tensor:
    x = model.maxpool(model.relu(model.bn1(model.conv1(IMAGES))))
    return model.layer4(model.layer3(model.layer2(model.layer1(x))))


def _without_head(model: nn.Module) -> State:
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("fc.")}


def _children(model: nn.Module) -> State:
    return nn.Sequential(*list(model.children())[:-1]).state_dict()


def _mulan(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    networks = [
        prefixed(_without_head(model), "module.backbone.")
        | mlp("module.projector")
        | mlp("module.predictors.global")
        | mlp("module.predictors.cutout")
        for model in (a, b)
    ]
    optimizer = {"state": {0: {"mu": torch.randn(2)}}, "param_groups": [{"lr": 0.1}]}
    return {
        "epoch": 7,
        "online_model": networks[0],
        "target_model": prefixed({k.removeprefix("module."): v for k, v in networks[1].items()}, ""),
        "optimizer": optimizer,
        "scaler": {"scale": 1.0},
    }


def _dino(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    head = {"head.mlp.0.weight": torch.randn(4, 4), "head.last_layer.weight_g": torch.randn(4, 1)}
    return {
        "student": prefixed(prefixed(_without_head(a), "backbone.") | head, "module."),
        "teacher": prefixed(_without_head(b), "backbone.") | head,
        "epoch": 100,
        "args": Namespace(arch="vit_small", patch_size=16, output_dir="x"),
        "dino_loss": {"center": torch.zeros(1, 4)},
    }


def _moco_v2(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    state = prefixed(a.state_dict(), "module.encoder_q.") | prefixed(b.state_dict(), "module.encoder_k.")
    return {"epoch": 200, "arch": "resnet50", "state_dict": state | {"module.queue": torch.randn(4, 4)}}


def _moco_v3(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    nets = [_without_head(model) | mlp("fc") for model in (a, b)]
    state = prefixed(nets[0], "module.base_encoder.") | prefixed(nets[1], "module.momentum_encoder.")
    return {"epoch": 300, "state_dict": state | mlp("module.predictor"), "scaler": {}, "optimizer": {}}


def _simsiam(a: nn.Module, _b: nn.Module) -> dict[str, Any]:
    encoder = _without_head(a) | mlp("fc")
    return {"epoch": 100, "state_dict": prefixed(encoder, "module.encoder.") | mlp("module.predictor")}


def _solo(a: nn.Module, b: nn.Module, old: bool = False) -> dict[str, Any]:
    word = "encoder" if old else "backbone"
    state = prefixed(_without_head(a), f"{word}.") | prefixed(_without_head(b), f"momentum_{word}.")
    state |= {"classifier.weight": torch.randn(5, 4)} | mlp("projector") | mlp("momentum_projector")
    return {"epoch": 999, "pytorch-lightning_version": "1.6", "state_dict": state, "callbacks": {}, "loops": None}


def _lightly(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    state = prefixed(_children(a), "backbone.") | prefixed(_children(b), "backbone_momentum.")
    return {"state_dict": state | mlp("projection_head.layers") | mlp("prediction_head.layers")}


def _lightly_student(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    state = prefixed(_children(a), "student_backbone.") | prefixed(_children(b), "teacher_backbone.")
    return {"state_dict": state | mlp("student_head.layers")}


def _mmselfsup(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    state = prefixed(_without_head(a), "backbone.") | prefixed(_without_head(b), "target_net.module.0.")
    return {"meta": {"epoch": 200}, "state_dict": state | mlp("neck.fc0") | mlp("target_net.module.1.fc0")}


def _mm_moco(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    state = prefixed(_without_head(a), "encoder_q.0.") | prefixed(_without_head(b), "encoder_k.0.")
    return {"meta": {"epoch": 200}, "state_dict": state | mlp("encoder_q.1.mlp")}


def _ijepa(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    networks = {
        name: prefixed(_without_head(model), "module.") for name, model in (("encoder", a), ("target_encoder", b))
    }
    return networks | {"predictor": mlp("module.predictor_embed"), "opt": {"state": {}}, "epoch": 300}


def _pixpro(a: nn.Module, b: nn.Module) -> dict[str, Any]:
    state = prefixed(_without_head(a), "module.encoder.") | prefixed(_without_head(b), "module.encoder_k.")
    return {"epoch": 400, "model": state | mlp("module.projector_k.linear1") | mlp("module.value_transform")}


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
        (_ijepa, "I-JEPA or MSN"),
        (_pixpro, "PixPro"),
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
    assert online.config == CONFIG
    assert online.origin["family"].startswith(family)
    assert f"({family}, " in online.source
    assert torch.equal(online.model.forward_features(IMAGES), _resnet_map(resnets[0]))
    if family == "SimSiam":
        with pytest.raises(UserError, match=r"SimSiam.*target.*online"):
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
        lambda model: {"state_dict": prefixed(model.state_dict(), "module.")},  # MoCo's linear evaluation
        lambda model: {"model": prefixed(model.state_dict(), "_orig_mod.module.")},
        lambda model: {"meta": {}, "state_dict": _without_head(model)},
        lambda model: {"state_dict": _without_head(model) | mlp("projection_head") | {"prototypes.weight": IMAGES}},
        lambda model: {"model": prefixed(_without_head(model), "module.backbone.") | mlp("module.projector")},
        lambda model: {
            "classy_state_dict": {
                "base_model": {"model": {"trunk": prefixed(_without_head(model), "_feature_blocks."), "heads": {}}}
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
def test_architectures_are_read_off_the_shapes(name: str, arguments: dict[str, Any], expected: BackboneConfig) -> None:
    with shapes_only():
        state = timm.create_model(name, num_classes=0, **arguments).state_dict()
    if "pos_embed" in state:
        state["pos_embed"] = torch.zeros(state["pos_embed"].shape)  # MoCo v3's is known by its values
    assert infer(state, "weights.pth")[0] == expected


@pytest.mark.parametrize(("layout", "border", "stem"), [(_solo, 2, "small_padded"), (_mulan, 1, "small")])
def test_small_stems_have_the_border_of_their_family(
    tmp_path: Path, layout: Callable[..., dict[str, Any]], border: int, stem: str
) -> None:
    model = Narrow()
    model.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=border, bias=False)
    model.maxpool = nn.Identity()
    trained(model, 1)
    torch.save(layout(model, model), tmp_path / "cifar.ckpt")
    backbone = open_backbone(str(tmp_path / "cifar.ckpt"))
    assert backbone.config.stem == stem
    assert f"border {border}" in backbone.source
    assert torch.equal(backbone.model.forward_features(IMAGES), _resnet_map(model))


def test_every_tensor_is_accounted_for(tmp_path: Path, resnets: list[nn.Module]) -> None:
    torch.save(_moco_v2(*resnets), tmp_path / "moco.pth.tar")
    _, table = open_with_report(str(tmp_path / "moco.pth.tar"))
    assert not table.matched
    assert ("state_dict.module.encoder_q.conv1.weight", "conv1.weight") in table.renamed
    assert len(table.renamed) == 120
    reasons = dict(table.dropped)
    assert reasons["state_dict.module.encoder_q.fc.weight"].startswith("head or projector")
    assert reasons["state_dict.module.encoder_k.conv1.weight"] == "target network"
    assert reasons["state_dict.module.queue"].startswith("bookkeeping")
    assert len(reasons) == 2 + 122 + 1
    assert table.summary() == "0 matched, 120 renamed, 125 dropped"
    assert "  state_dict.module.encoder_q.bn1.bias -> bn1.bias" in table.text().splitlines()


def test_absent_batch_counters_become_zero_and_are_named(tmp_path: Path, resnets: list[nn.Module]) -> None:
    state = {name: t for name, t in resnets[0].state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    backbone, table = open_with_report(str(tmp_path / "old.pth"))
    assert re.search("20 .*num_batches_tracked", backbone.source)
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
    with pytest.raises(UserError, match=r"own\.ckpt.*ReLU"):
        open_backbone(str(tmp_path / "own.ckpt"))
