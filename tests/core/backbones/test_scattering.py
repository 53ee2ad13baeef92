"""Scattering: closed forms, symmetries and energy of the front; networks on it, counted and found again."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from core.backbones import BackboneConfig, build_backbone, family_of, feature_width, pooled_features
from core.backbones.scattering_front import Scattering, at_stride, count_channels, filters
from core.checkpoints import export_backbone, load_exported
from core.errors import UserError


@pytest.mark.parametrize(
    ("scales", "angles", "channels"), [(1, 8, 9), (2, 4, 25), (2, 8, 81), (2, 16, 289), (3, 8, 217)]
)
def test_numbers_of_channels_and_maps(scales: int, angles: int, channels: int) -> None:
    assert count_channels(scales, angles) == channels
    maps = Scattering(scales, angles)(torch.rand(1, 3, 16, 24))
    assert maps.shape == (1, 3 * channels, 16 // 2**scales, 24 // 2**scales)


def test_a_constant_image_has_only_its_order_zero() -> None:
    maps = Scattering(2, 4)(torch.full((1, 1, 16, 16), 3.0, dtype=torch.float64))
    torch.testing.assert_close(maps[:, 0], torch.full((1, 4, 4), 3.0, dtype=torch.float64))
    assert maps[:, 1:].abs().max() < 1e-14


def test_the_modulus_of_a_cosine_is_its_closed_form() -> None:
    """|x⋆ψ| = ½ √(a² + b² + 2ab·cos 2ku) for x = cos ku, a = ψ̂(k), b = ψ̂(−k); its mean is order 1 averaged."""
    side, k = 32, 5  # 4 harmonics of the modulus fall between the output's, which keep the mean apart from them
    rows = torch.arange(side, dtype=torch.float64)[:, None].expand(side, side)
    maps = Scattering(2, 8).on_torus(torch.cos(2 * torch.pi * k * rows / side)[None])
    wavelets, _ = filters((side, side), 2, 8)
    for angle in range(8):
        a, b = wavelets[0, angle, k, 0], wavelets[0, angle, -k, 0]
        modulus = 0.5 * np.sqrt(a**2 + b**2 + 2 * a * b * np.cos(4 * np.pi * k * np.arange(side) / side))
        assert maps[0, 1 + angle].mean().item() == pytest.approx(modulus.mean(), rel=1e-3)


def test_quarter_turns_and_mirrors_permute_the_angles() -> None:
    torch.manual_seed(0)
    angles, front = 8, Scattering(2, 8)
    images = torch.rand(1, 16, 16, dtype=torch.float64)
    about_pixel_0 = lambda x, axis: torch.roll(x.flip(axis), 1, axis)  # noqa: E731
    turned = about_pixel_0(images.transpose(1, 2), 1)
    for k in (0, 1):
        part = slice(1 + k * angles, 1 + (k + 1) * angles)
        plain = front.on_torus(images)[0, part].mean((1, 2))
        torch.testing.assert_close(front.on_torus(turned)[0, part].mean((1, 2)), plain.roll(angles // 2))
        mirrored = front.on_torus(about_pixel_0(images, 2))[0, part].mean((1, 2))
        order = [(2 * (angles - angles // 2 - 1) - t) % angles for t in range(angles)]
        torch.testing.assert_close(mirrored, plain[order])


@pytest.mark.parametrize(("angles", "least"), [(4, 0.13), (8, 0.12), (16, 0.07)])
def test_the_filters_never_amplify(angles: int, least: float) -> None:
    wavelets, low_pass = filters((64, 64), 2, angles)
    mirrored = np.roll(np.flip(wavelets, (2, 3)), 1, (2, 3))
    total = low_pass**2 + 0.5 * (wavelets**2 + mirrored**2).sum((0, 1))
    assert total.max() == pytest.approx(1, abs=0.01)
    assert total.min() == pytest.approx(least, abs=0.01)
    np.testing.assert_allclose(wavelets[:, :, 0, 0], 0, atol=1e-12)
    assert low_pass[0, 0] == pytest.approx(1, abs=1e-3)
    assert at_stride(wavelets, 2).shape == (2, angles, 32, 32)


def test_precision_gradients_and_state() -> None:
    torch.manual_seed(0)
    front, images = Scattering(2, 4), torch.rand(1, 1, 8, 8, dtype=torch.float64)
    exact = front(images)
    torch.testing.assert_close(front(images.float()).double(), exact, rtol=0, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(front(images.float()), Scattering(2, 4)(images.float()))
        assert front(images.bfloat16()).dtype == torch.float32
    assert torch.autograd.gradcheck(front, images.requires_grad_(), fast_mode=True)
    assert not front.state_dict()
    assert torch.equal(copy.deepcopy(front)(images), exact)


@pytest.mark.parametrize(
    ("name", "angles", "millions"),
    [("scatsimclr8", 8, 5.93), ("scatsimclr12", 8, 7.84), ("scatsimclr12", 16, 9.28), ("scatsimclr16", 8, 9.02),
     ("scatsimclr16", 16, 10.46), ("scatsimclr30", 8, 14.06)],
)  # fmt: skip
def test_parameters_are_those_of_the_published_code(name: str, angles: int, millions: float) -> None:
    """With the projector 2048-2048-128. The code counts an unused batch norm on the front, too."""
    with torch.device("meta"):
        model = build_backbone(BackboneConfig(name, {"angles": angles}))
    projector = 2048 * 2048 + 2048 + 2048 * 128 + 128
    unused = 2 * 3 * count_channels(2, angles)
    count = sum(parameter.numel() for parameter in model.parameters()) + projector + unused
    assert round(count / 1e6, 2) == millions
    assert feature_width(model) == 2048


@pytest.mark.parametrize(
    "config",
    [
        BackboneConfig("scattering_resnet18", {"channels": [8, 8, 16, 16], "angles": 4}),
        BackboneConfig("scatsimclr8", {"angles": 4, "scales": 1}),
    ],
    ids=lambda config: config.name,
)
def test_networks_are_exported_and_found_again(config: BackboneConfig, tmp_path: Path) -> None:
    model = build_backbone(config).eval()
    names = set(model.state_dict())
    assert not any("front" in name or "conv1.0" in name for name in names)
    export_backbone(tmp_path / "x.safetensors", model, config, {})
    loaded = load_exported(tmp_path / "x.safetensors").model.eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(pooled_features(loaded, images), pooled_features(model, images))
    assert family_of(loaded).dense == "none"
    if config.name.startswith("scattering"):
        assert {"layer1.0.conv1.weight", "bn1.weight"} <= names
        assert model.conv1(images).shape == (2, 64, 8, 8)
        assert model.forward_features(images).shape == (2, 16, 1, 1)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (BackboneConfig("scatsimclr8", {"scales": 5}), "scales"),
        (BackboneConfig("scatsimclr8", {"depth": 3}), "depth"),
        (BackboneConfig("scattering_resnet50d"), "stem"),
        (BackboneConfig("scattering_vit_tiny_patch16_224"), "scattering_vit"),
        (BackboneConfig("scatsimclr8", stem="small"), "stem"),
    ],
)
def test_impossible_networks(config: BackboneConfig, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_backbone(config)
    with pytest.raises(UserError, match="drop_path"):
        build_backbone(BackboneConfig("scatsimclr8"), 0.1)


def test_sides_must_be_multiples_of_the_stride() -> None:
    with pytest.raises(AssertionError, match=r"multiples of 4, not 30 × 32"):
        Scattering(2, 4)(torch.rand(1, 3, 30, 32))
