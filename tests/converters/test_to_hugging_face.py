"""`--to hf`: transformers' own AutoModel opens the folder and computes the same, in its own classes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from converters.convert import main
from converters.destinations import write_for
from converters.open import open_backbone, open_with_report
from converters.verification.verify import verify
from core.errors import UserError

transformers = pytest.importorskip("transformers", reason="needs transformers", exc_type=ImportError)

TINY = "embed_dim=48, depth=2, num_heads=3"
VIT = f"timm:vit_tiny_patch16_224({TINY}, img_size=64)"
DINOV2 = f"timm:vit_small_patch14_dinov2({TINY}, img_size=56, mlp_ratio=4)"
REGISTERS = f"timm:vit_small_patch14_reg4_dinov2({TINY}, img_size=56, mlp_ratio=4)"


def with_values(ckpt: str) -> tuple[Any, Any]:
    """A backbone in which no vector has its first value: norms and layer scales at 1 would hide a mistake."""
    backbone, table = open_with_report(ckpt)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in backbone.model.state_dict().items():
        if tensor.is_floating_point() and (tensor.ndim == 1 or "pos_embed" in name or "token" in name):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + (0.5 if "var" in name else -0.2))
    return backbone, table


@pytest.mark.parametrize(
    ("ckpt", "kind"),
    [
        ("timm:resnet18(channels=[8,16,24,32])", "ResNetModel"),
        ("timm:resnet50(channels=[8,16,24,32], layers=[1,2,1,1])", "ResNetModel"),
        ("timm:convnext_tiny(dims=[8,16,24,32], depths=[1,1,2,1])", "ConvNextModel"),
        (VIT, "ViTModel"),
        (DINOV2, "Dinov2Model"),
        (REGISTERS, "Dinov2WithRegistersModel"),
        ("timm:vit_giant_patch14_dinov2(embed_dim=48, depth=1, num_heads=3, img_size=56, mlp_ratio=2.66667)",
         "Dinov2Model"),
    ],
)  # fmt: skip
def test_transformers_opens_the_folder_and_computes_the_same(tmp_path: Path, ckpt: str, kind: str) -> None:
    backbone, table = with_values(ckpt)
    written = write_for(backbone, table, "hf", tmp_path / "x")
    assert len(written.matched) + len(written.renamed) == len(backbone.model.state_dict())
    assert sorted(file.name for file in (tmp_path / "x").iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    assert f"outputs of transformers' {kind} equal" in verify(backbone, "hf", tmp_path / "x")
    again = open_backbone(str(tmp_path / "x"))
    model = transformers.AutoModel.from_pretrained(str(tmp_path / "x"), local_files_only=True).eval()
    assert type(model).__name__ == kind
    side = {"ResNetModel": 96, "ConvNextModel": 96, "ViTModel": 64}.get(kind, 56)
    images = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        ours, theirs = backbone.model.eval().forward_features(images), model(images).last_hidden_state
        back = again.model.eval().forward_features(images)
    assert float((ours - theirs).abs().max()) <= 1e-5 * max(1.0, float(ours.abs().max()))
    assert float((ours - back).abs().max()) <= 1e-5 * max(1.0, float(ours.abs().max()))


def test_the_image_processor_has_the_backbones_mean_and_size(tmp_path: Path) -> None:
    backbone, table = open_with_report(VIT.replace("img_size=64", "img_size=64, mean=[.5,.4,.3], std=[.1,.2,.3]"))
    write_for(backbone, table, "hf", tmp_path / "x")
    settings = json.loads((tmp_path / "x" / "preprocessor_config.json").read_text())
    assert (settings["image_mean"], settings["image_std"]) == ([0.5, 0.4, 0.3], [0.1, 0.2, 0.3])
    processor = transformers.AutoImageProcessor.from_pretrained(str(tmp_path / "x"), local_files_only=True)
    image = torch.full((3, 90, 120), 128, dtype=torch.uint8)
    found = processor(image, return_tensors="pt")["pixel_values"]
    assert found.shape == (1, 3, 64, 64)
    torch.testing.assert_close(found[0, :, 32, 32], (torch.tensor([128 / 255] * 3) - torch.tensor([0.5, 0.4, 0.3]))
                               / torch.tensor([0.1, 0.2, 0.3]), rtol=0, atol=0.02)  # fmt: skip


def test_the_proof_can_fail(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    backbone, table = with_values(DINOV2)
    write_for(backbone, table, "hf", tmp_path / "x")
    file = tmp_path / "x" / "model.safetensors"
    tensors = load_file(file)
    changed = "encoder.layer.1.mlp.fc1.weight"
    save_file(tensors | {changed: tensors[changed].flip(0)}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="differ"):
        verify(backbone, "hf", tmp_path / "x")
    del tensors[changed]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="1 tensors are lost"):
        verify(backbone, "hf", tmp_path / "x")


@pytest.mark.parametrize("ckpt", [VIT, REGISTERS])
def test_without_transformers_the_tensors_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ckpt: str
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # makes its import fail
    backbone, table = with_values(ckpt)
    write_for(backbone, table, "hf", tmp_path / "x")
    assert "transformers is not installed" in verify(backbone, "hf", tmp_path / "x")


@pytest.mark.parametrize(
    ("ckpt", "message"),
    [
        ("timm:resnet18d", "resnet18d"),
        ("timm:resnet18(stem=small)", "3×3 stem"),
        ("timm:resnext50_32x4d", "grouped|width"),
        ("timm:resnetaa50", "anti-aliasing"),
        ("timm:vit_tiny_patch16_224(depth=1, reg_tokens=4)", "registers"),
        ("timm:vit_tiny_patch16_224(depth=1, class_token=false, global_pool=avg)", "class token"),
        ("timm:convnextv2_atto", "response"),
        ("timm:swin_tiny_patch4_window7_224", "swin_tiny"),
    ],
)
def test_what_transformers_lacks_is_refused(tmp_path: Path, ckpt: str, message: str) -> None:
    backbone, table = open_with_report(ckpt)
    with pytest.raises(UserError, match=message):
        write_for(backbone, table, "hf", tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_the_command_replaces_its_own_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x"
    monkeypatch.setattr(sys, "argv", ["convert.py", "--ckpt", VIT, "--to", "hf", "--out", str(out)])
    main()
    main()
    assert "AutoModel.from_pretrained" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    for file in out.iterdir():
        file.unlink()
    (out / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="--out"):
        main()
    assert (out / "mine.txt").read_text() == "x"
