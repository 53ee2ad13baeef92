"""Files as other projects' own code saves them: what stands beside their weights, and DINOv2's layouts."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from converters.open import open_backbone, open_with_report
from core.errors import UserError
from tests.converters.family_weights import IMAGES, State, mlp, prefixed, trained

_ARGUMENTS: dict[str, Any] = {"depth": 3, "img_size": 64, "num_classes": 0}


@pytest.fixture(scope="module")
def resnet() -> State:
    return trained(timm.create_model("resnet18", num_classes=0, channels=(8, 8, 8, 8)), 1).state_dict()


class _Call:
    """Pickled as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _their_module(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """A module of another project, importable as long as a file is written."""
    module: Any = ModuleType(name)
    exec("def exclude_bias_and_norm(p):\n    raise SystemExit('executed')\nclass Trust:\n    pass", vars(module))
    module.exclude_bias_and_norm.__module__ = module.Trust.__module__ = name
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.mark.parametrize("module", ["optim", "main_vicreg", "large_batch"])
@pytest.mark.parametrize("called", [False, True], ids=["named", "called"])
def test_an_optimisers_functions_are_never_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resnet: State, module: str, called: bool
) -> None:
    theirs = _their_module(monkeypatch, module)
    function = _Call(theirs.exclude_bias_and_norm, 1) if called else theirs.exclude_bias_and_norm
    group = {"lr": 0.1, "weight_decay_filter": function, "lars_adaptation_filter": function, "trust": theirs.Trust()}
    networks = {
        f"{word}_model": prefixed(resnet, "module.backbone.") | mlp("module.projector") for word in ("online", "target")
    }
    document = {"epoch": 5, **networks, "optimizer": {"state": {0: {"mu": torch.ones(2)}}, "param_groups": [group]}}
    torch.save(document, tmp_path / "checkpoint.pth")
    monkeypatch.delitem(sys.modules, module)
    backbone = open_backbone(str(tmp_path / "checkpoint.pth"))
    assert backbone.origin["family"].startswith("MULAN")
    assert all(torch.equal(tensor, resnet[name]) for name, tensor in backbone.model.state_dict().items())
    assert module not in sys.modules


@pytest.mark.parametrize("place", ["epoch", "args", "online_model"])
def test_unlisted_classes_outside_an_optimiser_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resnet: State, place: str
) -> None:
    theirs = _their_module(monkeypatch, "theirs")
    document = {"state_dict": resnet, place: [theirs.Trust()], "optimizer": {"f": theirs.exclude_bias_and_norm}}
    torch.save(document, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"file\.pth.*theirs\.Trust"):
        open_backbone(str(tmp_path / "file.pth"))


@pytest.mark.parametrize("function", [os.system, builtins.eval, builtins.exec, subprocess.check_call])
def test_hostile_twins_in_an_optimiser_are_refused_unrun(tmp_path: Path, resnet: State, function: Any) -> None:
    witness = tmp_path / "ran"
    code: Any = f"open({str(witness)!r}, 'w')" if function in (builtins.eval, builtins.exec) else f"touch {witness}"
    code = code.split() if function is subprocess.check_call else code
    group = {"lr": 0.1, "weight_decay_filter": _Call(function, code)}
    torch.save({"state_dict": resnet, "optimizer": {"param_groups": [group]}}, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"file\.pth"):
        open_backbone(str(tmp_path / "file.pth"))
    assert not witness.exists()


def test_tensors_beside_a_state_dict_are_not_backbone(tmp_path: Path, resnet: State) -> None:
    beside = {"best_acc1": torch.tensor(71.2), "stats": {"mean": torch.ones(3)}}
    document = {"epoch": 3, "state_dict": prefixed(resnet, "module."), **beside}
    torch.save(document, tmp_path / "model_best.pth.tar")
    backbone, report = open_with_report(str(tmp_path / "model_best.pth.tar"))
    assert all(torch.equal(tensor, resnet[name]) for name, tensor in backbone.model.state_dict().items())
    assert dict(report.dropped).keys() == {"best_acc1", "stats.mean"}


def _dinov2(registers: int) -> tuple[State, nn.Module, Tensor]:
    """A file in DINOv2's names, timm's network with the same weights, and its tokens for IMAGES.

    DINOv2 adds positions to the class token and the patches, then puts the registers between them.
    """
    model = trained(timm.create_model("vit_small_patch16_224", init_values=1.0, reg_tokens=registers, **_ARGUMENTS), 7)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if registers:
        place = state["pos_embed"]  # timm's has one for registers too: zero there, so that it computes the same
        place[:, 1 : 1 + registers] = 0
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.cat([place[:, :1], place[:, 1 + registers :]], dim=1)
        model.pos_embed.data = place
    return state | {"mask_token": torch.zeros(1, 384)}, model, model.forward_features(IMAGES)


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("chunks", [False, True], ids=["flat", "chunks"])
def test_dinov2s_own_names(tmp_path: Path, registers: int, chunks: bool) -> None:
    state, _, expected = _dinov2(registers)
    if chunks:  # as training with block_chunks saves it: blocks keep their number below that of their chunk
        state = {
            f"blocks.{int(name.split('.')[1]) // 2}.{name.removeprefix('blocks.')}"
            if "blocks." in name
            else name: tensor
            for name, tensor in state.items()
        }
    torch.save({"teacher": prefixed(state, "backbone.") | mlp("dino_head.mlp")}, tmp_path / "teacher.pth")
    backbone, report = open_with_report(str(tmp_path / "teacher.pth"), "target")
    assert backbone.config.args.get("reg_tokens", 0) == registers
    assert ("of the class token added" in backbone.source) == (registers > 0)
    torch.testing.assert_close(backbone.model.forward_features(IMAGES), expected, rtol=0, atol=1e-5)
    assert dict(report.dropped)["teacher.backbone.mask_token"].startswith("decoder")


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2s_swiglu(tmp_path: Path, registers: int) -> None:
    """fc1 and fc2 are called w12 and w3; checked against the formula w3(SiLU(a) · b) with a, b = w12(x)."""
    sizes = {"embed_dim": 128, "depth": 2, "num_heads": 2, "img_size": 56}
    model = trained(timm.create_model("vit_giant_patch14_dinov2", num_classes=0, **sizes), 3)
    block, x = model.blocks[0].mlp, torch.randn(3, 128)
    a, b = block.fc1(x).chunk(2, dim=-1)
    torch.testing.assert_close(block(x), block.fc2(nn.functional.silu(a) * b))
    state = {name.replace("fc1", "w12").replace("fc2", "w3"): tensor for name, tensor in model.state_dict().items()}
    more = {"register_tokens": torch.zeros(1, registers, 128)} if registers else {}
    torch.save(state | more | {"mask_token": torch.zeros(1, 128)}, tmp_path / "vitg.pth")
    backbone = open_backbone(str(tmp_path / "vitg.pth"))
    assert backbone.config.name == "vit_giant_patch14_dinov2"
    own = backbone.model.state_dict()
    assert all(
        torch.equal(own[name], tensor) for name, tensor in model.state_dict().items() if name.startswith("blocks")
    )
    if not registers:
        images = torch.randn(1, 3, 56, 56)
        torch.testing.assert_close(backbone.model.forward_features(images), model.forward_features(images))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("pos_embed", torch.zeros(17)),
        ("pos_embed", torch.zeros(1).expand(1, 17, 2**40)),
        ("cls_token", torch.zeros(1, 1, 7)),
        ("pos_embed", torch.zeros(1, 17, 384).to_sparse()),
        ("register_tokens", torch.zeros(3)),
    ],
    ids=["flat", "huge", "narrow", "sparse", "registers"],
)
def test_impossible_registers_are_one_sentence(tmp_path: Path, name: str, tensor: torch.Tensor) -> None:
    torch.save(_dinov2(4)[0] | {name: tensor}, tmp_path / "reg4.pth")
    with pytest.raises(UserError, match=r"reg4\.pth") as caught:
        open_backbone(str(tmp_path / "reg4.pth"))
    assert "\n" not in str(caught.value)


def test_ibots_masked_embedding_is_dropped(tmp_path: Path) -> None:
    state = trained(timm.create_model("vit_small_patch16_224", **_ARGUMENTS), 1).state_dict()
    student = prefixed(state | {"masked_embed": torch.zeros(1, 384)}, "module.backbone.")
    torch.save({"student": student, "teacher": prefixed(state, "backbone.")}, tmp_path / "checkpoint.pth")
    backbone, report = open_with_report(str(tmp_path / "checkpoint.pth"))
    assert all(torch.equal(tensor, state[name]) for name, tensor in backbone.model.state_dict().items())
    assert "student.module.backbone.masked_embed" in dict(report.dropped)
