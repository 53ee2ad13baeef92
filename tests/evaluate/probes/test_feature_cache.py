"""evaluate/probes/features/cache.py: equal to features computed directly, never stale, whole or not there."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.backbones import Backbone, BackboneConfig, build_backbone
from core.data.readers.folder import Folder
from core.distributed import Processes
from core.errors import UserError
from core.features import EvalTransformConfig, FeatureConfig, extract_features
from evaluate.common.context import RunContext
from evaluate.probes.features import cache
from evaluate.probes.features.cache import CachedFeatures, cache_key, cached_features
from evaluate.probes.features.head_inputs import plan_head_inputs
from evaluate.probes.features.standardise import BatchStandardiser, FixedStandardiser, moments

ALONE = Processes(0, 1, torch.device("cpu"))
CONTEXT = RunContext(ALONE, workers=0, seed=0)
CONFIG = FeatureConfig(EvalTransformConfig(36, 32), batch=5)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def resnet(seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    config = BackboneConfig("resnet18", {"channels": [8, 8, 16, 24]}, stem="small")
    return Backbone(config, build_backbone(config), "test")


def vit(class_token: bool = True) -> Backbone:
    torch.manual_seed(0)
    args: dict[str, Any] = {"depth": 5, "embed_dim": 24, "num_heads": 2, "patch_size": 8}
    if not class_token:
        args |= {"class_token": False, "global_pool": "avg"}
    config = BackboneConfig("vit_tiny_patch16_224", args)
    return Backbone(config, build_backbone(config), "test")


def test_cached_features_are_those_of_the_backbone_and_are_computed_once(
    image_folder: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(image_folder / "train", tmp_path / "train")
    (tmp_path / "train/cat/3.jpg").write_bytes(b"no image")
    images, backbone = Folder(tmp_path / "train", "train"), resnet()
    config = dataclasses.replace(CONFIG, broken_share=0.2)
    taps = plan_head_inputs(backbone.model, 32, (1,), ("auto",))
    found = cached_features(backbone, taps, images, config, CONTEXT)
    expected = extract_features(backbone.model, backbone.config, images, config, ALONE)
    assert np.array_equal(found.values[found.rows], expected.values)
    assert found.labels.tolist() == expected.labels.tolist()
    assert found.positions.tolist() == expected.positions.tolist() == [i for i in range(12) if i != 3]
    assert found.broken == expected.broken
    assert isinstance(found.values, np.memmap)
    monkeypatch.setattr(cache, "_fill", None)  # any computation fails from here on
    again = cached_features(backbone, taps, images, config, CONTEXT)
    assert again.folder == found.folder
    assert again.broken == found.broken
    assert np.array_equal(again.values[again.rows], expected.values)
    found.values[:] = 0  # the pages are private
    assert np.array_equal(again.values[again.rows], expected.values)


def test_another_checkpoint_transform_or_data_set_is_another_cache(image_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(image_folder / "train", tmp_path / "train")
    images, backbone = Folder(tmp_path / "train", "train"), resnet()
    taps = plan_head_inputs(backbone.model, 32, (1,), ("auto",))
    folders = [cached_features(backbone, taps, images, CONFIG, CONTEXT).folder]
    folders.append(cached_features(resnet(1), taps, images, CONFIG, CONTEXT).folder)
    moved = dataclasses.replace(backbone, config=dataclasses.replace(backbone.config, mean=(0.5, 0.5, 0.5)))
    folders.append(cached_features(moved, taps, images, CONFIG, CONTEXT).folder)
    larger = dataclasses.replace(CONFIG, transform=EvalTransformConfig(40, 32))
    folders.append(cached_features(backbone, taps, images, larger, CONTEXT).folder)
    bilinear = dataclasses.replace(CONFIG, transform=EvalTransformConfig(36, 32, "bilinear"))
    folders.append(cached_features(backbone, taps, images, bilinear, CONTEXT).folder)
    assert cache_key(backbone, taps, images, CONFIG)["transform"] == {"resize": 36, "crop": 32}  # as in older caches
    half = cached_features(backbone, taps, images, dataclasses.replace(CONFIG, storage="fp16"), CONTEXT)
    assert half.values.dtype == np.float16
    folders.append(half.folder)
    (tmp_path / "train/dog/5.jpg").unlink()
    fewer = Folder(tmp_path / "train", "train")
    folders.append(cached_features(backbone, taps, fewer, CONFIG, CONTEXT).folder)
    with torch.no_grad():
        backbone.model.bn1.bias.add_(1)  # type: ignore[operator,union-attr]
    folders.append(cached_features(backbone, taps, fewer, CONFIG, CONTEXT).folder)
    assert len(set(folders)) == 8


def test_what_a_kill_leaves_is_not_taken_for_a_cache(
    image_folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, backbone = Folder(image_folder / "train", "train"), resnet()
    taps = plan_head_inputs(backbone.model, 32, (1,), ("auto",))

    def killed(*_arguments: Any, **_more: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "extract_features", killed)
        with pytest.raises(KeyboardInterrupt):
            cached_features(backbone, taps, images, CONFIG, CONTEXT)
    assert list(own_cache.iterdir()) == []
    folder = cached_features(backbone, taps, images, CONFIG, CONTEXT).folder
    expected = np.load(folder / "values.npy")
    (folder / "facts.json").write_text("{")
    assert np.array_equal(cached_features(backbone, taps, images, CONFIG, CONTEXT).values, expected)
    values = (folder / "values.npy").read_bytes()
    (folder / "values.npy").write_bytes(values[: len(values) // 2])
    assert np.array_equal(cached_features(backbone, taps, images, CONFIG, CONTEXT).values, expected)


def test_a_full_disk_is_one_sentence(image_folder: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    def full(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "posix_fallocate", full)
    backbone = resnet()
    taps = plan_head_inputs(backbone.model, 32, (1,), ("auto",))
    with pytest.raises(UserError, match=rf"{own_cache}.*No space left on device"):
        cached_features(backbone, taps, Folder(image_folder / "train", "train"), CONFIG, CONTEXT)
    assert list(own_cache.iterdir()) == []


# HeadInputs


def test_taps_are_the_blocks_outputs_after_the_final_norm() -> None:
    backbone = vit()
    model: Any = backbone.model.eval()
    images = torch.randn(3, 3, 32, 32)
    outputs: list[torch.Tensor] = []
    handles = [
        block.register_forward_hook(lambda _module, _input, output: outputs.append(output)) for block in model.blocks
    ]
    with torch.no_grad():
        final = model.forward_features(images)
        tokens = [model.norm(output) for output in outputs]
        for handle in handles:
            handle.remove()
        taps = plan_head_inputs(model, 32, (1, 4), ("cls", "cls+patches"))
        stored = taps(model, images)
    assert torch.equal(tokens[-1], final)
    last, four = tokens[-1][:, 0], torch.cat([output[:, 0] for output in tokens[-4:]], dim=1)
    patches = tokens[-1][:, 1:].mean(1)
    expected = [last, torch.cat([last, patches], 1), four, torch.cat([four, patches], 1)]
    assert taps.names[1] == "last 1 block, cls+patches"
    assert (taps.width, stored.shape[1]) == (5 * 24, 5 * 24)
    for (start, end), vectors in zip(taps.slices, expected, strict=True):
        torch.testing.assert_close(stored[:, start:end], vectors, atol=1e-6, rtol=0)
    one = plan_head_inputs(model, 32, (1,), ("cls+patches",))
    with torch.no_grad():
        torch.testing.assert_close(one(model, images), expected[1], atol=1e-6, rtol=0)


def test_impossible_taps() -> None:
    with pytest.raises(UserError, match=r"ResNet.*blocks=\[1\] poolings=\[auto\]"):
        plan_head_inputs(resnet().model, 32, (1, 4), ("cls",))
    with pytest.raises(UserError, match=r"blocks=\[6\].*\b5 blocks"):
        plan_head_inputs(vit().model, 32, (6,), ("cls",))
    with pytest.raises(UserError, match=r"pooling cls\b.*\bpatches"):
        plan_head_inputs(vit(class_token=False).model, 32, (1,), ("cls",))
    with pytest.raises(UserError, match=r"patches.*last block"):
        plan_head_inputs(vit().model, 32, (1, 2), ("patches",))
    assert plan_head_inputs(vit(class_token=False).model, 32, (1,), ("auto",)).names == ("last 1 block, patches",)


# Standardisation


def features(values: np.ndarray, rows: list[int]) -> CachedFeatures:
    return CachedFeatures(values, np.array(rows), np.zeros(len(rows), np.int64), np.array(rows), (), Path())


def test_moments_are_those_of_the_usable_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluate.probes.features.standardise._ROWS", 3)
    values = np.random.default_rng(0).normal(1000, 2, (9, 4)).astype(np.float32)
    values[:, 2] = 0.1
    values[5] = 1e9
    rows = [0, 1, 2, 3, 4, 6, 7, 8]
    mean, deviation = moments(features(values, rows))
    np.testing.assert_allclose(mean, values[rows].astype(np.float64).mean(0), rtol=1e-6)
    expected = values[rows].astype(np.float64).std(0)
    expected[2] = 1.0
    np.testing.assert_allclose(deviation, expected, rtol=1e-6)
    standardiser = FixedStandardiser(mean, deviation, torch.device("cpu"))
    done = standardiser.evaluate(torch.from_numpy(values[rows])).numpy()
    np.testing.assert_allclose(done.std(0), [1, 1, 0, 1], atol=1e-4)


def test_the_batch_norm_is_torchs() -> None:
    reference = torch.nn.BatchNorm1d(6, eps=1e-6, affine=False)
    own = BatchStandardiser(6, torch.device("cpu"))
    for seed in range(3):
        batch = torch.randn(16, 6, generator=torch.Generator().manual_seed(seed)) * 3 + 5
        torch.testing.assert_close(own.train(batch, 16), reference(batch))
    reference.eval()
    torch.testing.assert_close(own.evaluate(batch), reference(batch))
    other = BatchStandardiser(6, torch.device("cpu"))
    other.restore(own.state())
    assert torch.equal(other.evaluate(batch), own.evaluate(batch))


def test_half_precision_is_close_to_the_full_one_and_kept_apart(image_folder: Path, own_cache: Path) -> None:
    images, backbone = Folder(image_folder / "train", "train"), vit()
    taps = plan_head_inputs(backbone.model, 32, (1,), ("auto",))
    full, half = (
        cached_features(backbone, taps, images, dataclasses.replace(CONFIG, precision=precision), CONTEXT).values
        for precision in ("fp32", "bf16")
    )
    cosines = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert 0.999 < cosines.min() < 1 - 1e-7  # eight bits of mantissa were used, and are enough
    assert len(list(own_cache.iterdir())) == 2
