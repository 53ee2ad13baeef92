"""core/features.py: pixels as torchvision's, features as the model's, and nothing of the caller's state touched."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn
from torchvision import transforms

from core.backbones import BackboneConfig, build_backbone
from core.data.readers.folder import Folder
from core.distributed import Processes
from core.errors import UserError
from core.features import (
    EvalTransformConfig,
    FeatureConfig,
    eval_crop,
    extract_features,
    feature_size,
    gather_features,
    normalised,
)

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)
RESNET = BackboneConfig("resnet18", {"channels": [8, 8, 16, 24]}, stem="small")
VIT = BackboneConfig("vit_tiny_patch16_224", {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 32})
SMALL = FeatureConfig(EvalTransformConfig(36, 32), batch=5)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return build_backbone(RESNET)


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    torch.manual_seed(0)
    return build_backbone(VIT)


@pytest.fixture(scope="module")
def images(image_folder: Path) -> Folder:
    return Folder(image_folder / "train", "folder:train")


def reference_transform(resize: int, crop: int, interpolation: str = "bicubic") -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.Resize(resize, transforms.InterpolationMode(interpolation)),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
            transforms.Normalize(RESNET.mean, RESNET.std),
        ]
    )


@pytest.mark.parametrize("size", [(48, 40), (41, 97), (300, 33), (32, 32), (20, 31)])
@pytest.mark.parametrize(("resize", "crop"), [(36, 32), (37, 32), (32, 32), (31, 30)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_equal_torchvisions_bit_for_bit(
    size: tuple[int, int], resize: int, crop: int, interpolation: Any
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = PIL.Image.fromarray(noise)
    expected = reference_transform(resize, crop, interpolation)(image)
    ours = normalised(torch.tensor(eval_crop(image, EvalTransformConfig(resize, crop, interpolation)))[None], RESNET)[0]
    assert torch.equal(ours, expected)


def test_the_crop_is_central() -> None:
    ramp = np.repeat(np.arange(60, dtype=np.uint8)[None, :, None], 20, axis=0).repeat(3, axis=2)
    crop = eval_crop(PIL.Image.fromarray(ramp), EvalTransformConfig(20, 10))  # 60 × 20 is not resized
    assert crop.shape == (10, 10, 3)
    assert crop[0, :, 0].tolist() == list(range(25, 35))


def test_impossible_transforms_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^resize .*224.*4096.*200"):
        EvalTransformConfig(200, 224)
    with pytest.raises(ValueError, match=r"^crop .*4096.*\b0\b"):
        EvalTransformConfig(200, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_features_are_the_models_of_torchvisions_pixels(resnet: nn.Module, images: Folder, workers: int) -> None:
    features = extract_features(resnet, RESNET, images, SMALL, ALONE, workers)
    transform = reference_transform(36, 32)
    with torch.no_grad():
        pixels = torch.stack([transform(images.image(i)) for i in range(12)])
        expected = resnet.eval().forward_features(pixels).mean(dim=(2, 3)).numpy()
    assert features.values.dtype == np.float32
    np.testing.assert_allclose(features.values, expected, rtol=1e-4, atol=1e-5)
    assert features.labels.tolist() == [0] * 6 + [1] * 6
    assert features.positions.tolist() == list(range(12))
    assert features.classes == ("cat", "dog")
    assert features.broken == ()


def test_unit_features_and_float16_storage(resnet: nn.Module, images: Folder) -> None:
    plain = extract_features(resnet, RESNET, images, SMALL, ALONE).values
    unit = extract_features(resnet, RESNET, images, SMALL, ALONE, unit=True).values
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-5, atol=1e-7)
    half = FeatureConfig(SMALL.transform, storage="fp16")
    stored = extract_features(resnet, RESNET, images, half, ALONE, unit=True).values
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored, unit, atol=5e-4)


def test_bfloat16_autocast_is_near_but_not_equal(resnet: nn.Module, images: Folder) -> None:
    exact = extract_features(resnet, RESNET, images, SMALL, ALONE).values
    low = FeatureConfig(SMALL.transform, precision="bf16")
    rounded = extract_features(resnet, RESNET, images, low, ALONE).values
    assert not np.array_equal(rounded, exact)
    np.testing.assert_allclose(rounded, exact, rtol=0.1, atol=0.02)


def test_vit_poolings(vit: nn.Module, images: Folder) -> None:
    transform = reference_transform(36, 32)
    with torch.no_grad():
        tokens = vit.eval().forward_features(torch.stack([transform(images.image(i)) for i in range(12)])).numpy()
    expected = {
        "auto": tokens[:, 0],
        "cls": tokens[:, 0],
        "patches": tokens[:, 1:].mean(axis=1),
        "cls+patches": np.concatenate([tokens[:, 0], tokens[:, 1:].mean(axis=1)], axis=1),
    }
    for pooling, values in expected.items():
        config = FeatureConfig(SMALL.transform, pooling=pooling)  # type: ignore[arg-type]
        assert feature_size(vit, config, CPU) == values.shape[1]
        np.testing.assert_allclose(
            extract_features(vit, VIT, images, config, ALONE).values, values, rtol=1e-4, atol=1e-5
        )


def test_nothing_of_the_callers_state_changes(images: Folder) -> None:
    torch.manual_seed(0)
    model = build_backbone(RESNET).train()
    model.layer2.eval()  # type: ignore[union-attr]
    modes = {name: module.training for name, module in model.named_modules()}
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    for workers in (0, 1):
        extract_features(model, RESNET, images, SMALL, ALONE, workers)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2][1])  # type: ignore[index]  # noqa: NPY002
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert torch.is_grad_enabled()


def test_the_training_mode_comes_back_after_an_error(images: Folder) -> None:
    model = build_backbone(RESNET).train()
    with pytest.raises(UserError):
        extract_features(model, RESNET, images, FeatureConfig(SMALL.transform, pooling="cls"), ALONE)
    assert model.training


def test_ranks_share_the_images_without_padding(resnet: nn.Module, images: Folder) -> None:
    whole = extract_features(resnet, RESNET, images, SMALL, ALONE)
    parts = [extract_features(resnet, RESNET, images, SMALL, Processes(rank, 5, CPU)) for rank in range(5)]
    assert [len(part.values) for part in parts] == [3, 3, 2, 2, 2]
    assert np.concatenate([part.positions for part in parts]).tolist() == list(range(12))
    np.testing.assert_allclose(np.concatenate([part.values for part in parts]), whole.values, rtol=1e-4, atol=1e-6)
    beyond = extract_features(resnet, RESNET, images, SMALL, Processes(12, 13, CPU))
    assert beyond.values.shape == (0, 24)


def test_alone_gathering_changes_nothing(resnet: nn.Module, images: Folder) -> None:
    features = extract_features(resnet, RESNET, images, SMALL, ALONE)
    assert gather_features(features, CPU).values is features.values


def test_a_broken_image_is_left_out_counted_and_named(resnet: nn.Module, image_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(image_folder / "train", tmp_path / "train")
    bad = tmp_path / "train" / "cat" / "2.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    images = Folder(tmp_path / "train", "folder:train")
    tolerant = FeatureConfig(SMALL.transform, batch=3, broken_share=0.1)
    features = extract_features(resnet, RESNET, images, tolerant, ALONE)
    assert features.positions.tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert features.labels.tolist() == [0] * 5 + [1] * 6
    assert len(features.broken) == 1
    assert features.broken[0].startswith(f"{bad}: ")
    whole = extract_features(resnet, RESNET, Folder(image_folder / "train", "folder:train"), SMALL, ALONE)
    np.testing.assert_allclose(features.values, np.delete(whole.values, 2, axis=0), rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match=r"1 of 12 .*0\.01.*cat/2\.jpg"):
        extract_features(resnet, RESNET, images, SMALL, ALONE)


def test_a_batch_of_broken_images_only(resnet: nn.Module, image_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(image_folder / "train", tmp_path / "train")
    for number in range(2):
        (tmp_path / "train" / "cat" / f"{number}.jpg").write_bytes(b"")
    tolerant = FeatureConfig(SMALL.transform, batch=2, broken_share=0.5)
    images = Folder(tmp_path / "train", "folder:train")
    assert extract_features(resnet, RESNET, images, tolerant, ALONE).positions.tolist() == list(range(2, 12))


def test_features_that_are_not_finite_stop_the_evaluation(images: Folder) -> None:
    torch.manual_seed(0)
    model = build_backbone(RESNET)
    model.layer4[1].bn2.weight.data[3] = float("nan")  # type: ignore[index,union-attr]
    with pytest.raises(UserError, match=r"cat/0\.jpg.*finite"):
        extract_features(model, RESNET, images, SMALL, ALONE)


def test_poolings_and_sizes_that_a_model_lacks(resnet: nn.Module, vit: nn.Module) -> None:
    with pytest.raises(UserError, match=r"pooling cls\b.*\bavg"):
        feature_size(resnet, FeatureConfig(SMALL.transform, pooling="cls"), CPU)
    with pytest.raises(UserError, match=r"pooling avg\b.*\bcls\b.*\bpatches"):
        feature_size(vit, FeatureConfig(SMALL.transform, pooling="avg"), CPU)
    with pytest.raises(UserError, match="30×30"):
        feature_size(vit, FeatureConfig(EvalTransformConfig(32, 30)), CPU)
