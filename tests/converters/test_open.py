"""converters/open.py: everything that --ckpt takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from converters.architecture import parse_architecture
from converters.open import open_backbone
from core.backbones import BackboneConfig, build_backbone, describe, pooled_features
from core.checkpoints import EXPORTS, export_backbone, save_training_state
from core.config import to_dict
from core.errors import UserError
from core.files.atomic_file import file_digest

NARROW = BackboneConfig("resnet18", {"channels": [8, 16, 24, 32]}, stem="small")
NAME = "timm:resnet18(channels=[8,16,24,32], stem=small)"
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _weights(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_backbone(NARROW).eval()


def _same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def _state(folder: Path, step: int, target: bool, seed: int = 1) -> Path:
    networks: list[dict[str, Any] | None] = []
    for number in (seed, seed + 1):
        state = {f"backbone.{name}": tensor for name, tensor in _weights(number).state_dict().items()}
        networks.append(state | {"projector.0.weight": torch.randn(2, 2)})
    config = {"backbone": to_dict(NARROW), "objective": {"name": "byol"}}
    document = {"config": config, "epoch": 3, "online": networks[0], "target": networks[1] if target else None}
    return save_training_state(folder, step, document)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for seed, (network, name) in enumerate(EXPORTS.items(), 1):
        export_backbone(tmp_path / "run" / name, _weights(seed), NARROW, {"network": network, "method": "byol"})
    return tmp_path / "run"


def test_a_run_folder_gives_the_network_asked_for(run: Path) -> None:
    online, target = open_backbone(str(run)), open_backbone(str(run), "target")
    assert online.config == NARROW
    assert _same(online.model, _weights(1))
    assert _same(target.model, _weights(2))
    assert not online.model.training
    assert target.origin["network"] == "target"
    assert target.origin["method"] == "byol"
    assert target.origin["file_sha256"] == file_digest(run / "backbone_target.safetensors")
    (run / EXPORTS["target"]).unlink()
    with pytest.raises(UserError, match=rf"{run}.*target.*online"):
        open_backbone(str(run), "target")


def test_an_exported_file_speaks_for_itself(run: Path) -> None:
    assert open_backbone(str(run / EXPORTS["target"])).origin["network"] == "target"
    with pytest.raises(UserError, match=r"online.*target.*backbone_target"):
        open_backbone(str(run / EXPORTS["online"]), "target")


def test_a_run_without_an_export_gives_its_newest_state(tmp_path: Path) -> None:
    _state(tmp_path / "checkpoints", 5, target=True, seed=7)
    newest = _state(tmp_path / "checkpoints", 10, target=True)
    online = open_backbone(str(tmp_path))
    assert _same(online.model, _weights(1))
    assert _same(open_backbone(str(newest), "target").model, _weights(2))
    expected = {"family": "ssl-transfer", "network": "online", "method": "byol", "epoch": "3", "step": "10"}
    coverage = f"{len(online.model.state_dict())} matched, 0 missing, 0 unexpected, 0 mis-shaped"
    assert online.origin == expected | {"file_sha256": file_digest(newest), "coverage": coverage}


def test_a_state_without_a_momentum_network_says_so(tmp_path: Path) -> None:
    path = _state(tmp_path, 1, target=False)
    with pytest.raises(UserError, match=rf"{path}.*target.*online"):
        open_backbone(str(path), "target")


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    path = save_training_state(tmp_path, 1, {"online": {}})
    with pytest.raises(UserError, match=rf"{path}.*damaged"):
        open_backbone(str(path))


def test_timm_without_a_tag_is_random_by_the_seed() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    backbone = open_backbone(NAME, seed=4)
    assert torch.equal(torch.get_rng_state(), before)  # the caller's random numbers are not touched
    assert backbone.config == NARROW
    assert _same(backbone.model, _weights(4))
    assert not _same(backbone.model, _weights(5))
    assert backbone.source.endswith("seed 4)")
    assert backbone.origin == {"family": "random", "network": "none", "seed": "4"}


def test_random_takes_the_architecture_alone(run: Path) -> None:
    backbone = open_backbone(f"random:{run}", seed=9)
    assert backbone.config == NARROW
    assert _same(backbone.model, _weights(9))
    assert "seed 9" in backbone.source


def test_what_describe_prints_can_be_given_back() -> None:
    for config in (NARROW, BackboneConfig("vit_tiny_patch16_224", {"depth": 2, "qkv_bias": False})):
        assert parse_architecture(describe(config)) == config


def test_pixels_are_the_flattened_image() -> None:
    backbone = open_backbone("pixels")
    features = pooled_features(backbone.model, IMAGES)
    assert features.shape == (2, 3 * 32 * 32)
    assert torch.equal(features, IMAGES.reshape(2, -1))
    with pytest.raises(UserError, match=r"pixels.*\bauto\b"):
        pooled_features(backbone.model, IMAGES, "avg")


def test_released_weights_unreachable_is_an_error_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"timm:resnet18\.tv_in1k.*--ckpt FILE"):
        open_backbone("timm:resnet18.tv_in1k")


def test_released_weights_bring_timms_normalisation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    released = timm.create_model("vit_tiny_patch16_224", num_classes=1000)
    released_file = tmp_path / "model.safetensors"
    save_file(released.state_dict(), released_file)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: released.state_dict())
    backbone = open_backbone("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    assert backbone.config.mean == (0.5, 0.5, 0.5)
    assert torch.equal(backbone.model.blocks[3].mlp.fc1.weight, released.blocks[3].mlp.fc1.weight)
    assert backbone.source.startswith("timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k (")
    # The same tensors as a file without a tag: ImageNet's statistics, as for every foreign file.
    assert open_backbone(str(released_file)).config.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("ckpt", "message"),
    [
        ("nowhere/at_all", "nowhere/at_all.*--ckpt"),
        ("timm:resnet51", "'resnet51'"),
        ("timm:convnext_tinny", "convnext_tiny"),
        ("timm:resnet18.tv_in2k", r"'tv_in2k'.*resnet18.*tv_in1k"),
        ("timm:resnet18.tv_in1k(stem=small)", "architecture"),
        ("timm:resnet18(channels=[8", r"channels=\[8.*architecture"),
        ("timm:resnet18(channels=[8)", "arguments in "),
        ("timm:resnet18(channels)", "arguments in "),
        ("timm:resnet18(stem=tiny)", "stem"),
        ("timm:resnet18(depth=3)", "depth.*resnet18|resnet18.*depth"),
        ("random:pixels", "pixels.*weights"),
    ],
)
def test_mistakes_in_ckpt(ckpt: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_backbone(ckpt)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{tmp_path}.*backbone\.safetensors"):
        open_backbone(str(tmp_path))


def test_arch_must_not_contradict(run: Path, tmp_path: Path) -> None:
    assert open_backbone(str(run), arch="resnet18").config == NARROW
    with pytest.raises(UserError, match=r"backbone\.safetensors.*resnet18\(.*--arch.*resnet50"):
        open_backbone(str(run), arch="resnet50")
    with pytest.raises(UserError, match=r"--arch.*resnet50"):
        open_backbone(NAME, arch="resnet50")
    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), tmp_path / "foreign.pth")
    assert open_backbone(str(tmp_path / "foreign.pth"), arch="resnet18").config == BackboneConfig("resnet18")
    with pytest.raises(UserError, match=r"foreign\.pth.*resnet18.*--arch.*resnet50"):
        open_backbone(str(tmp_path / "foreign.pth"), arch="resnet50")
    with pytest.raises(UserError, match=r"^pixels"):
        open_backbone("pixels", arch="resnet18")


def test_arch_decides_what_weights_do_not_show(tmp_path: Path) -> None:
    arguments = {"depth": 1, "embed_dim": 48, "num_heads": 4}
    vit = timm.create_model("vit_small_patch16_224", num_classes=0, **arguments).eval()
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    torch.save(timm.create_model("resnet18d", num_classes=0).state_dict(), tmp_path / "deep.pth")
    with pytest.raises(UserError, match=r"heads.*--arch 'vit_small_patch16_224\(embed_dim=48"):
        open_backbone(str(tmp_path / "vit.pth"))
    arch = "vit_small_patch16_224(depth=1, embed_dim=48, num_heads=4)"
    backbone = open_backbone(str(tmp_path / "vit.pth"), arch=arch)
    images = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(backbone.model(images), vit(images), rtol=0, atol=1e-5)
    with pytest.raises(UserError, match=r"stem.*--arch.*resnet50d"):
        open_backbone(str(tmp_path / "deep.pth"))
    assert open_backbone(str(tmp_path / "deep.pth"), arch="resnet18d").config.name == "resnet18d"


def test_a_flat_file_has_no_target_to_ask_for(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"file\.pth.*one network"):
        open_backbone(str(tmp_path / "file.pth"), "target")
