"""core/compute/streaming.py: the features of the whole network, one block on the device at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.backbones import Backbone, BackboneConfig, block_modules, build_backbone
from core.compute.streaming import map_from_file, stream_blocks, visit_device
from core.errors import UserError
from core.features import frozen
from tests.pretrain.compute.fake_cuda import fake_cuda

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2}
EVA = {"img_size": 32, "embed_dim": 24, "depth": 3, "num_heads": 2}
CONFIGS = [BackboneConfig("vit_tiny_patch16_224", VIT), BackboneConfig("vit_small_patch16_dinov3", EVA)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_features_have_the_same_bits_and_weights_lie_in_a_file(config: BackboneConfig, cache: Path) -> None:
    torch.manual_seed(0)
    model, images = build_backbone(config), torch.randn(2, 3, 32, 32)
    names = list(model.state_dict())
    with frozen(model):
        expected = model(images)
        stream_blocks(Backbone(config, model, ""), CPU)
        assert torch.equal(model(images), expected)
    assert list(model.state_dict()) == names
    starts = {p.untyped_storage().data_ptr() for block in block_modules(model) for p in block.parameters()}
    assert len(starts) == 1
    if (maps := Path("/proc/self/maps")).exists():
        (line,) = [line for line in maps.read_text().splitlines() if str(cache) in line]
        assert int(line.partition("-")[0], 16) == starts.pop()
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_one_block_at_a_time_is_on_the_device(config: BackboneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_backbone(config).eval()
    blocks = block_modules(model)
    map_from_file(blocks)
    there: list[list[int]] = []

    def places() -> list[int]:
        return [n for n, block in enumerate(blocks) if any(p.device.type == "cuda" for p in block.parameters())]

    with torch.no_grad(), fake_cuda(monkeypatch):
        visit_device(model, blocks, CUDA)
        for block in blocks:
            block.norm1.register_forward_pre_hook(lambda *_: there.append(places()))
        for _ in range(2):
            assert model(torch.randn(2, 3, 32, 32, device=CUDA)).device.type == "cuda"
        assert places() == []
        outside = {id(p) for p in model.parameters()} - {id(p) for block in blocks for p in block.parameters()}
        assert all(p.device.type == "cuda" for p in model.parameters() if id(p) in outside)
    assert there == [[0], [1], [2]] * 2


@pytest.mark.gpu
def test_features_on_a_gpu_have_the_same_bits_in_less_memory() -> None:
    config = BackboneConfig("vit_base_patch16_224")
    model, images = build_backbone(config), torch.randn(2, 3, 224, 224, device=CUDA)
    with frozen(model):
        model.to(CUDA)
        expected, whole = model(images), torch.cuda.memory_allocated()
        model.to(CPU)
        stream_blocks(Backbone(config, model, ""), CUDA)
        torch.cuda.reset_peak_memory_stats()
        assert torch.equal(model(images), expected)
        assert torch.cuda.max_memory_allocated() < whole / 2


def test_networks_without_blocks_are_refused() -> None:
    config = BackboneConfig("resnet18")
    with pytest.raises(UserError, match="--stream-blocks"):
        stream_blocks(Backbone(config, build_backbone(config), ""), CPU)
