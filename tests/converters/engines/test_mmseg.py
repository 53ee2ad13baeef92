"""Conversion for MMSegmentation: its own classes give torchvision's and timm's maps at every tap, and run no code."""

from __future__ import annotations

import os
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor

from converters.adapters.mmseg import ResNetFile, VitFile
from converters.destinations import usage, write_for
from converters.engines.openmmlab import import_mmseg
from converters.mmseg_backbone import dilate, mmseg_model
from converters.open import open_backbone, open_with_report
from converters.verification.verify import verify
from core.backbones.positions import resize_positions
from core.checkpoints import read_tensors
from core.compute.shapes import nothing_drawn
from core.errors import UserError
from tests.torchrun import python

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))

needs_mmseg = pytest.mark.usefixtures("mmseg")


@pytest.fixture
def mmseg() -> None:
    pytest.importorskip("mmseg", reason="needs MMSegmentation", exc_type=ImportError)
    import_mmseg()


def _resnet_maps(model: Any, images: Tensor) -> list[Tensor]:
    x, maps = model.maxpool(model.relu(model.bn1(model.conv1(images)))), []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        x = stage(x)
        maps.append(x)
    return maps


def _trained_like(model: torch.nn.Module) -> torch.nn.Module:
    """Running statistics and scales other than those of the start, so that a wrong norm shows."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            torch.nn.init.uniform_(module.weight, 0.3, 1.0, generator=generator)
    return model.eval()


@needs_mmseg
@pytest.mark.parametrize(("name", "dilated"), [("resnet18", False), ("resnet50", True)])
def test_a_resnets_maps_are_torchvisions_to_the_last_bit(tmp_path: Path, name: str, dilated: bool) -> None:
    torch.manual_seed(0)
    options = {"replace_stride_with_dilation": [False, True, True]} if dilated else {}
    source = _trained_like(getattr(torchvision.models, name)(**options))
    torch.save(source.state_dict(), tmp_path / "source.pth")
    backbone, table = open_with_report(str(tmp_path / "source.pth"))
    account = write_for(backbone, table, "mmseg", tmp_path / "x.pth")
    assert not account.renamed
    assert {name for name, _ in account.dropped} == {"fc.weight", "fc.bias"}
    settings = ResNetFile().settings(backbone)
    with nothing_drawn():
        theirs = mmseg_model(dilate(settings) if dilated else settings)
    theirs.load_state_dict(read_tensors(tmp_path / "x.pth")["state_dict"], strict=True)
    theirs.eval()
    with torch.inference_mode():
        for ours, found in zip(_resnet_maps(source, IMAGES), theirs(IMAGES), strict=True):
            assert float((ours - found).abs().max()) == 0.0
    assert "largest difference 0 of " in verify(backbone, "mmseg", tmp_path / "x.pth")


@needs_mmseg
def test_a_vits_maps_at_another_image_size(tmp_path: Path) -> None:
    backbone, table = open_with_report("timm:vit_small_patch16_224(depth=4)", seed=1)
    torch.nn.init.normal_(backbone.model.pos_embed, std=0.5)  # type: ignore[arg-type]
    account = write_for(backbone, table, "mmseg", tmp_path / "x.pth")
    assert ("blocks.1.attn.qkv.weight", "layers.1.attn.attn.in_proj_weight") in account.renamed
    theirs = mmseg_model(VitFile().settings(backbone))
    theirs.load_state_dict(read_tensors(tmp_path / "x.pth")["state_dict"], strict=True)
    theirs.eval()
    images = torch.randn(1, 3, 320, 256, generator=torch.Generator().manual_seed(0))
    state = dict(backbone.model.state_dict())
    state["pos_embed"] = resize_positions(state["pos_embed"], (14, 14), (20, 16), 1, "bicubic")
    other = timm.create_model("vit_small_patch16_224", depth=4, num_classes=0, img_size=(320, 256)).eval()
    other.load_state_dict(state)
    with torch.inference_mode():
        found = theirs(images)  # 14 × 14 positions, resized by MMSegmentation's own code
        last, maps = other.forward_intermediates(images)
        maps[-1] = last[:, 1:].transpose(1, 2).reshape(maps[-1].shape)
        for ours, its in zip(maps, found, strict=True):
            assert float((ours - its).abs().max()) <= 1e-5
        # timm's own resizing is another one.
        assert float((backbone.model.forward_intermediates(images)[1][0] - found[0]).abs().max()) > 0.05  # type: ignore[operator]
    assert "at all 4 taps" in verify(backbone, "mmseg", tmp_path / "x.pth")


@needs_mmseg
@pytest.mark.parametrize(
    "name", ["resnet18(channels=[16,32,64,128])", "vit_tiny_patch16_224(depth=2, img_size=64, num_heads=3)"]
)
def test_there_and_back_and_what_usage_says_works(tmp_path: Path, name: str) -> None:
    backbone, table = open_with_report(f"timm:{name}", seed=2)
    out = tmp_path / "x.pth"
    write_for(backbone, table, "mmseg", out)
    again = open_backbone(str(out))
    assert again.origin["family"].startswith("OpenMMLab")
    assert all(torch.equal(a, again.model.state_dict()[key]) for key, a in backbone.model.state_dict().items())
    printed = usage(backbone, "mmseg", out)
    assert "mean=[123.675, 116.28, 103.53]" in printed
    found = re.match(r"backbone=(dict\(.*\)), data_preprocessor", printed)
    assert found is not None
    theirs: Any = mmseg_model(eval(found[1]))  # our own text, as a user pastes it into a config
    theirs.init_weights()
    theirs.eval()
    with torch.inference_mode():
        last = backbone.model.forward_features(IMAGES[..., :64])  # type: ignore[operator]
        if last.ndim == 3:
            last = last[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
        torch.testing.assert_close(theirs(IMAGES[..., :64])[-1], last, rtol=0, atol=1e-5)


@needs_mmseg
def test_the_proof_can_fail(tmp_path: Path) -> None:
    backbone, table = open_with_report("timm:resnet18")
    write_for(backbone, table, "mmseg", tmp_path / "x.pth")
    document = read_tensors(tmp_path / "x.pth")
    document["state_dict"]["layer3.0.downsample.0.weight"] *= 1 + 1e-6
    torch.save(document, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"differ.*\btap 2\b"):
        verify(backbone, "mmseg", tmp_path / "x.pth")
    del document["state_dict"]["layer3.0.downsample.0.weight"]
    torch.save(document, tmp_path / "x.pth")
    with pytest.raises(UserError, match="1 missing"):
        verify(backbone, "mmseg", tmp_path / "x.pth")


def test_without_mmsegmentation_the_tensors_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise UserError("MMSegmentation is missing")

    monkeypatch.setattr("converters.adapters.mmseg.import_mmseg", absent)
    backbone, table = open_with_report("timm:resnet18(channels=[8,16,32,64])")
    write_for(backbone, table, "mmseg", tmp_path / "x.pth")
    assert "MMSegmentation is missing" in verify(backbone, "mmseg", tmp_path / "x.pth")
    document = read_tensors(tmp_path / "x.pth")
    document["state_dict"]["layer3.1.conv2.weight"] *= 2
    torch.save(document, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"layer3\.1\.conv2\.weight differs"):
        verify(backbone, "mmseg", tmp_path / "x.pth")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"mmengine, mmcv, mmseg\b.*\.\[segmentation\]"):
        import_mmseg()


@pytest.mark.parametrize(
    ("ckpt", "message"),
    [
        ("timm:resnet18(stem=small)", "7×7 stem"),
        ("timm:vit_tiny_patch16_224(depth=1, reg_tokens=4, pos_resize=dinov2)", "class token"),
    ],
)
def test_what_it_lacks_is_refused_and_nothing_written(tmp_path: Path, ckpt: str, message: str) -> None:
    backbone, table = open_with_report(ckpt)
    with pytest.raises(UserError, match=message):
        write_for(backbone, table, "mmseg", tmp_path / "x.pth")
    assert not list(tmp_path.iterdir())


class _Attack:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)


@needs_mmseg
def test_the_engine_runs_no_code_from_a_crafted_checkpoint(tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", tmp_path / "crafted.pth"
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}, "meta": _Attack(mark)}, file)
    load = f"from mmengine.runner.checkpoint import CheckpointLoader as L; L.load_checkpoint({str(file)!r})"
    done = python("-c", f"from converters.engines.openmmlab import import_mmseg; import_mmseg(); {load}")
    assert done.returncode != 0
    assert "UnpicklingError" in done.stderr
    assert not mark.exists()
    with pytest.raises(UserError, match=r"crafted\.pth.*tensors"):
        open_backbone(str(file))
    assert not mark.exists()
    # The file is an attack: Python's own unpickler runs it.
    pickle.loads(pickle.dumps(_Attack(mark)))
    assert mark.exists()
    assert "mmseg" in sys.modules


@needs_mmseg
def test_the_engine_installs_nothing(tmp_path: Path) -> None:
    """Its hub starts `python -m pip install` for a config of a package that isn't there, whatever `python` is."""
    mark = tmp_path / "ran"
    (tmp_path / "python").write_text(f"#!/bin/sh\ntouch {mark}\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    code = (
        "import os; os.environ['PATH'] = {path!r} + os.pathsep + os.environ['PATH']\n"
        "{safe}\n"
        "from mmengine.hub import get_config\n"
        "import mmengine.utils.package_utils as utils; utils.is_installed = lambda name: False\n"
        "get_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')\n"
    )
    guarded = code.format(
        path=str(tmp_path), safe="from converters.engines.openmmlab import import_mmseg; import_mmseg()"
    )
    done = python("-c", guarded)
    assert done.returncode != 0
    assert re.search(r"UserError: .*python -m pip install mmdet\b", done.stderr)
    assert not mark.exists()
    assert python("-c", code.format(path=str(tmp_path), safe="")).returncode != 0
    assert mark.exists()  # what it does by itself
    assert os.environ["PIP_NO_INDEX"] == "1"
