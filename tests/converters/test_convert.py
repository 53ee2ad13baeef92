"""converters/convert.py: other libraries load the written files completely and compute the same."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision

from converters.convert import main
from converters.destinations import write_for
from converters.engines import detectron2_compat
from converters.open import open_backbone, open_with_report
from converters.verification.verify import feature_maps, verify
from core.backbones import build_backbone
from core.checkpoints import read_tensors
from core.errors import UserError
from tests.torchrun import python

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
SCRIPT = Path(__file__).resolve().parents[2] / "converters" / "convert.py"


def _convert(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["convert.py", *map(str, arguments)])
    main()


def _moco(path: Path) -> torch.nn.Module:
    model = torchvision.models.resnet18(num_classes=4).eval()
    state = {f"module.encoder_q.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 1, "state_dict": state | {"module.queue": torch.zeros(2, 2)}}, path)
    model.fc = torch.nn.Identity()
    return model


def test_from_moco_to_torchvision_with_an_account_of_every_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _moco(tmp_path / "moco.pth.tar")
    out = tmp_path / "r18.pth"
    _convert(monkeypatch, "--ckpt", tmp_path / "moco.pth.tar", "--to", "torchvision", "--out", out)
    fresh = torchvision.models.resnet18().eval()
    fresh.fc = torch.nn.Identity()
    fresh.load_state_dict(torch.load(out, weights_only=True), strict=True)
    assert torch.equal(fresh(IMAGES), source(IMAGES))
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert all(part in lines[0] for part in ("MoCo v2", "encoder_q.", "online", "resnet18"))
    assert lines[1] == "0 matched, 120 renamed, 3 dropped"
    assert "  state_dict.module.encoder_q.layer1.0.bn1.bias -> layer1.0.bn1.bias" in lines
    assert any("dropped" in line and "projector" in line for line in lines)
    assert "    state_dict.module.encoder_q.fc.bias" in lines
    assert re.search(r"verified: torchvision.*difference 0 of ", printed)


def test_to_detectron2_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _moco(tmp_path / "moco.pth.tar")
    out = tmp_path / "r18.pkl"
    _convert(monkeypatch, "--ckpt", tmp_path / "moco.pth.tar", "--to", "detectron2", "--out", out)
    printed = capsys.readouterr().out
    assert (
        "  state_dict.module.encoder_q.layer2.0.downsample.0.weight -> res3.0.shortcut.weight" in printed.splitlines()
    )
    assert "MODEL.RESNETS.STRIDE_IN_1X1 False, MODEL.RESNETS.RES2_OUT_CHANNELS 64" in printed
    assert "MODEL.PIXEL_MEAN [123.675, 116.28, 103.53]" in printed
    backbone = open_backbone(str(out))
    assert backbone.origin["family"].startswith("Detectron2")
    assert torch.equal(backbone.model(IMAGES), source(IMAGES))


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "resnet18(channels=[8,16,24,32])"])
def test_detectron2s_own_model_gives_the_same_maps(tmp_path: Path, name: str) -> None:
    detectron2_compat.install_hook()
    pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)
    backbone, table = open_with_report(f"timm:{name}")
    write_for(backbone, table, "detectron2", tmp_path / "x.pkl")
    assert verify(backbone, "detectron2", tmp_path / "x.pkl").startswith("verified: Detectron2")


def test_without_detectron2_the_way_back_is_verified_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)  # makes its import fail
    backbone, table = open_with_report("timm:resnet18(channels=[8,16,24,32])")
    write_for(backbone, table, "detectron2", tmp_path / "x.pkl")
    output_text = verify(backbone, "detectron2", tmp_path / "x.pkl")
    assert output_text.startswith("verified: ")
    assert re.search("no model of Detectron2.*import", output_text)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("wide_resnet50_2", marks=pytest.mark.slow),
        "resnet18(stem=small)",
        "resnet18(stem=small_padded)",
        "resnet18(zero_init_last=false)",
    ],
)
def test_resnets_to_torchvision(tmp_path: Path, name: str) -> None:
    backbone, table = open_with_report(f"timm:{name}")
    written = write_for(backbone, table, "torchvision", tmp_path / "x.safetensors")
    assert not written.renamed
    output_text = verify(backbone, "torchvision", tmp_path / "x.safetensors")
    assert re.search(r"torchvision.*difference 0 of ", output_text)


def test_a_vit_to_torchvision(tmp_path: Path) -> None:
    backbone, table = open_with_report("timm:vit_small_patch16_224(depth=2, img_size=64, num_heads=12)")
    written = write_for(backbone, table, "torchvision", tmp_path / "x.pth")
    assert ("blocks.1.attn.qkv.bias", "encoder.layers.encoder_layer_1.self_attention.in_proj_bias") in written.renamed
    assert len(written.renamed) == len(backbone.model.state_dict())
    fresh = torchvision.models.VisionTransformer(64, 16, 2, 12, 384, 4 * 384).eval()
    fresh.heads = torch.nn.Identity()
    fresh.load_state_dict(read_tensors(tmp_path / "x.pth"), strict=False)
    expected = backbone.model.forward_features(IMAGES)[:, 0]
    torch.testing.assert_close(fresh(IMAGES), expected, rtol=0, atol=1e-5)
    assert verify(backbone, "torchvision", tmp_path / "x.pth").startswith("verified: torchvision")


def test_a_vit_for_detectron2_keeps_timms_names(tmp_path: Path) -> None:
    backbone, table = open_with_report("timm:vit_tiny_patch16_224(depth=1, img_size=64, num_heads=6)")
    assert not write_for(backbone, table, "detectron2", tmp_path / "x.pkl").renamed
    assert "timm's network inside Detectron2" in verify(backbone, "detectron2", tmp_path / "x.pkl")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_timms_own_loader_takes_the_file(tmp_path: Path, suffix: str) -> None:
    backbone, table = open_with_report("timm:resnet18(channels=[8,16,24,32])", seed=3)
    out = tmp_path / f"x{suffix}"
    write_for(backbone, table, "timm", out)
    assert verify(backbone, "timm", out).startswith("verified: ")
    model = timm.create_model("resnet18", num_classes=0, channels=(8, 16, 24, 32), checkpoint_path=str(out)).eval()
    assert torch.equal(model(IMAGES), backbone.model(IMAGES))


def test_feature_maps_are_timms() -> None:
    model = build_backbone(open_backbone("timm:resnet18(channels=[8,16,24,32])").config).eval()
    expected = model.forward_intermediates(IMAGES, indices=[1, 2, 3, 4], intermediates_only=True)
    maps = feature_maps(model, IMAGES)
    assert [tuple(m.shape) for m in maps] == [(2, 8, 16, 16), (2, 16, 8, 8), (2, 24, 4, 4), (2, 32, 2, 2)]
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))


@pytest.mark.parametrize(("to", "name"), [("timm", "resnet18(channels=[8,16,24,32])"), ("torchvision", "resnet18")])
def test_the_proof_can_fail(tmp_path: Path, to: str, name: str) -> None:
    backbone, table = open_with_report(f"timm:{name}")
    write_for(backbone, table, to, tmp_path / "x.pth")
    state = read_tensors(tmp_path / "x.pth")
    state["layer3.0.downsample.0.weight"] = state["layer3.0.downsample.0.weight"].flip(0)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth.*differ"):
        verify(backbone, to, tmp_path / "x.pth")
    del state["layer3.0.downsample.0.weight"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match="1 missing"):
        verify(backbone, to, tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("ckpt", "to", "out", "message"),
    [
        ("timm:resnet18", "detectron2", "x.pth", r"detectron2.*\.pkl"),
        ("timm:resnet18", "timm", "x.pkl", r"timm.*\.pth.*\.pt\b.*\.safetensors"),
        ("timm:resnet18(channels=[8,16,24,32])", "torchvision", "x.pth", "torchvision.*resnet18"),
        ("timm:resnet18d", "torchvision", "x.pth", "torchvision.*resnet18d"),
        ("timm:vit_tiny_patch16_224(depth=1, reg_tokens=4)", "torchvision", "x.pth", "torchvision.*ViT"),
        ("timm:vit_tiny_patch16_224(depth=1, no_embed_class=True)", "torchvision", "x.pth", "torchvision.*ViT"),
        ("pixels", "timm", "x.pth", "^pixels"),
    ],
)
def test_what_a_library_lacks_is_refused_and_nothing_written(
    tmp_path: Path, ckpt: str, to: str, out: str, message: str
) -> None:
    backbone, table = open_with_report(ckpt)
    with pytest.raises(UserError, match=message):
        write_for(backbone, table, to, tmp_path / out)
    assert not list(tmp_path.iterdir())


def test_help_comes_without_torch_and_mistakes_without_a_traceback(tmp_path: Path) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['convert.py', '--help']\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        f"except SystemExit: print('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "converters/convert.py --ckpt" in " ".join(shown.stdout.split())  # argparse breaks lines
    assert shown.stdout.endswith("False\n")
    mistake = python(str(SCRIPT), "--ckpt", "nowhere", "--to", "timm", "--out", str(tmp_path / "x.pth"))
    assert mistake.returncode == 2
    assert mistake.stderr.startswith("error: no checkpoint nowhere")
    assert len(mistake.stderr.splitlines()) == 1


def test_what_stands_at_the_place_stays_until_the_new_file_is_proved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import converters.adapters.timm as proof
    from converters.convert import main

    out = tmp_path / "x.pth"
    monkeypatch.setattr(
        sys, "argv", ["convert.py", "--ckpt", "timm:resnet18(channels=[8,16,24,32])", "--to", "timm", "--out", str(out)]
    )
    main()
    good = out.read_bytes()
    noisy = lambda model, images: [x + torch.randn_like(x) for x in feature_maps(model, images)]  # noqa: E731
    monkeypatch.setattr(proof, "feature_maps", noisy)
    with pytest.raises(UserError, match=rf"^{out}\b"):
        main()
    assert out.read_bytes() == good
    assert list(tmp_path.iterdir()) == [out]
