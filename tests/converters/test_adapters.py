"""Adapters to libraries: every backbone has a destination, wrapped networks prove themselves, so do torchvision's."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from converters.adapters import adapter_for, libraries
from converters.destinations import usage, write_for
from converters.engines import detectron2_compat
from converters.mmseg_backbone import mmseg_model
from converters.open import open_with_report
from converters.verification import proof
from converters.verification.verify import verify
from core.checkpoints import read_tensors
from core.errors import UserError

CONVNEXT = "timm:convnext_tiny(dims=[8,16,24,32], depths=[1,1,2,1])"
SWIN = "timm:swin_tiny_patch4_window7_224(embed_dim=16, depths=[1,1,2,1], num_heads=[1,2,2,4])"
EVA = "timm:vit_small_patch16_dinov3(embed_dim=48, depth=4, num_heads=3, img_size=64)"
VIT14 = "timm:vit_small_patch14_reg4_dinov2(embed_dim=48, depth=4, num_heads=3, img_size=56)"


def trained_like(ckpt: str) -> tuple[Any, Any]:
    backbone, table = open_with_report(ckpt)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in backbone.model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + (0.5 if "var" in name else -0.2))
    return backbone, table


def test_the_commands_choices_are_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    from converters.command import main

    shown: list[list[str]] = []
    add = argparse.ArgumentParser.add_argument

    def watched(self: Any, *names: Any, **options: Any) -> Any:
        if "--to" in names:
            shown.append(sorted(options["choices"]))
        return add(self, *names, **options)

    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", watched)
    monkeypatch.setattr("sys.argv", ["convert.py", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert shown == [libraries()]


@pytest.mark.parametrize("ckpt", [CONVNEXT, SWIN, EVA, VIT14, "timm:resnet18d(channels=[8,16,24,32], stem_width=8)"])
def test_a_wrapped_network_in_mmsegmentations_own_wrapper(tmp_path: Path, ckpt: str) -> None:
    pytest.importorskip("mmseg", reason="needs MMSegmentation", exc_type=ImportError)
    backbone, table = trained_like(ckpt)
    written = write_for(backbone, table, "mmseg", tmp_path / "x.pth")
    count = len(backbone.model.state_dict())
    assert len(written.renamed) + len(written.dropped) == count
    assert all("norm" in name for name, _ in written.dropped)
    assert "(largest difference 0 of " in verify(backbone, "mmseg", tmp_path / "x.pth")
    found = re.match(r"backbone=(dict\(.*\)), data_preprocessor", usage(backbone, "mmseg", tmp_path / "x.pth"))
    assert found is not None
    theirs: Any = mmseg_model(eval(found[1]))  # our own text, as a user pastes it into a config
    theirs.init_weights()
    own = backbone.model.state_dict()
    assert all(x.equal(own[name.removeprefix("timm_model.model.")]) for name, x in theirs.state_dict().items())


@pytest.mark.parametrize("ckpt", [CONVNEXT, SWIN, EVA, VIT14])
def test_a_wrapped_network_is_loaded_by_detectron2s_checkpointer(tmp_path: Path, ckpt: str) -> None:
    detectron2_compat.install_hook()
    pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)
    backbone, table = trained_like(ckpt)
    assert not write_for(backbone, table, "detectron2", tmp_path / "x.pkl").renamed
    assert "inside Detectron2 equal" in verify(backbone, "detectron2", tmp_path / "x.pkl")


@pytest.mark.parametrize(
    ("ckpt", "kind"),
    [(CONVNEXT, torchvision.models.convnext.ConvNeXt), (SWIN, torchvision.models.swin_transformer.SwinTransformer)],
)
def test_torchvisions_network_of_the_same_shape(tmp_path: Path, ckpt: str, kind: type) -> None:
    backbone, table = trained_like(ckpt)
    written = write_for(backbone, table, "torchvision", tmp_path / "x.pth")
    assert len(written.renamed) + len(written.matched) == len(backbone.model.state_dict())
    assert "torchvision's feature maps equal" in verify(backbone, "torchvision", tmp_path / "x.pth")
    state = read_tensors(tmp_path / "x.pth")
    name = next(name for name in state if name.endswith(("block.3.weight", "mlp.0.weight")))
    state[name] = state[name].flip(0)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match="differ"):
        verify(backbone, "torchvision", tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("name", "model"), [("convnext_tiny", "convnext_tiny"), ("swin_tiny_patch4_window7_224", "swin_t")]
)
def test_torchvisions_named_models_have_the_written_tensors(tmp_path: Path, name: str, model: str) -> None:
    backbone, _ = open_with_report(f"timm:{name}")
    adapter = adapter_for(backbone, "torchvision")
    names = adapter.write(backbone, tmp_path / "x.pth")
    with torch.device("meta"):
        theirs = getattr(torchvision.models, model)().state_dict()
    state = read_tensors(tmp_path / "x.pth")
    assert {key: x.shape for key, x in state.items()} == {
        key: x.shape for key, x in theirs.items() if not key.startswith(("head.", "classifier.2"))
    }
    assert set(names) == set(backbone.model.state_dict())


def test_rounding_is_distinguished_from_a_difference(tmp_path: Path) -> None:
    """Attention sharpened until float32 rounds above the bound: float64 decides."""
    backbone, table = open_with_report("timm:vit_small_patch16_224(depth=4, img_size=64)")
    for name, tensor in backbone.model.state_dict().items():
        if "attn.qkv.weight" in name:
            tensor.mul_(60)
    write_for(backbone, table, "torchvision", tmp_path / "x.pth")
    assert "float64" in verify(backbone, "torchvision", tmp_path / "x.pth")
    state = read_tensors(tmp_path / "x.pth")
    name = "encoder.layers.encoder_layer_3.mlp.3.bias"
    state[name][0] += 1e-4  # not all channels, which the final norm would centre
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match="differ"):
        verify(backbone, "torchvision", tmp_path / "x.pth")


def test_nan_counts_as_a_difference() -> None:
    good, bad = torch.ones(2), torch.tensor([1.0, float("nan")])
    assert not proof._Comparison([good, good], [bad, good]).within(1.0)
    assert not proof._Comparison([good, good], [good, bad]).within(1.0)
    assert proof._Comparison([good, good], [good, good]).within(0.0)


def test_a_library_without_such_a_network_is_named() -> None:
    backbone, _ = open_with_report(EVA)
    with pytest.raises(UserError, match="--to timm"):
        adapter_for(backbone, "torchvision")
    assert adapter_for(backbone, "timm").library == "timm"


def test_a_network_of_ones_own_is_not_timms(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("from torch import nn\ndef net(): return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU())\n")
    backbone, _ = open_with_report(f"module:{file}:net")
    for library in ("timm", "mmseg", "detectron2"):
        with pytest.raises(UserError, match=library):
            adapter_for(backbone, library)
