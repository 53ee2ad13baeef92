"""Backbones inside detectors: the same features as timm's, every tensor counted, groups of the optimiser."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from converters.open import open_backbone
from converters.verification.verify import feature_maps
from core.backbones import Backbone
from core.distributed import Processes
from core.errors import UserError
from evaluate.detection.model.designs import design_named
from evaluate.detection.model.detector import build_detector, detectron2_config, load_backbone
from evaluate.detection.settings import DetectionConfig, DetectionDataConfig, DetectorConfig, SolverConfig
from evaluate.detection.training.optimiser import build, parameter_groups

ALONE = Processes(0, 1, torch.device("cpu"))
IMAGES = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
SMALL = {"pyramid_width": 16, "box_width": 16, "mask_width": 8}
VIT = "timm:vit_tiny_patch16_224(depth=4, img_size=64)"


def trained(ckpt: str) -> Backbone:
    """A backbone whose every tensor differs from its start: fresh norms would hide one that was mixed up."""
    backbone = open_backbone(ckpt)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in backbone.model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + (0.5 if "var" in name else -0.2))
    return backbone


def detector_of(backbone: Backbone, **detector: Any) -> tuple[nn.Module, str]:
    config = DetectionConfig(detector=DetectorConfig(**detector))
    model, coverage = build_detector(detectron2_config(config, backbone, 5, ALONE), config.detector, backbone, seed=0)
    return model.eval(), coverage.summary()


@pytest.mark.parametrize(
    ("ckpt", "tensors"),
    [("timm:resnet18", 120), ("timm:resnet50", 318), ("timm:resnet18(channels=[16,32,64,128])", 126)],
)
def test_a_resnet_in_the_pyramid_gives_timms_maps(ckpt: str, tensors: int) -> None:
    backbone = trained(ckpt)
    detector, printed = detector_of(backbone, **SMALL)
    assert printed == f"{tensors} matched, 0 missing, 0 unexpected, 0 mis-shaped"
    with torch.inference_mode():
        maps: dict[str, Tensor] = detector.backbone.bottom_up(IMAGES)  # type: ignore[operator, union-attr]
        expected = feature_maps(backbone.model, IMAGES)
    assert list(maps) == ["res2", "res3", "res4", "res5"]
    assert [float((a - b).abs().max()) for a, b in zip(maps.values(), expected, strict=True)] == [0.0] * 4


def test_c4_has_res5_in_its_head_and_one_more_norm() -> None:
    backbone = trained("timm:resnet50")
    detector, printed = detector_of(backbone, design="resnet_c4", extra_norm=True)
    assert printed == "318 matched, 0 missing, 0 unexpected, 0 mis-shaped"
    parts: Any = detector
    with torch.inference_mode():
        res4 = parts.backbone(IMAGES)["res4"]
        res5 = nn.Sequential(*list(parts.roi_heads.res5)[:3])(res4)
        expected = feature_maps(backbone.model, IMAGES)
    assert torch.equal(res4, expected[2])
    assert torch.equal(res5, expected[3])
    assert parts.roi_heads.res5.norm.weight.shape == (2048,)
    assert len(parts.roi_heads.res5) == 4


@pytest.mark.parametrize("design", ["vit_fpn", "vit_simple"])
def test_the_taps_of_a_vit_are_timms(design: str) -> None:
    backbone = trained(VIT)
    detector, printed = detector_of(backbone, design=design, norm="LN", taps=(0, 1, 1, 3), **SMALL)
    count = len(backbone.model.state_dict())
    assert printed == f"{count} matched, 0 missing, 0 unexpected, 0 mis-shaped"
    bottom_up: Any = detector.backbone.bottom_up  # type: ignore[union-attr]
    vit: Any = backbone.model
    with torch.inference_mode():
        maps = bottom_up.maps(IMAGES)
        # By hand: patches, class token, position embedding resized, blocks one by one.
        tokens = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(IMAGES))))
        outputs = []
        for block in vit.blocks:
            tokens = block(tokens)
            outputs.append(tokens[:, 1:].transpose(1, 2).reshape(2, -1, 6, 4))
        pyramid = detector.backbone(IMAGES)  # type: ignore[operator]
    for tap, found in zip((0, 1, 1, 3), maps, strict=True):
        assert float((found - outputs[tap]).abs().max()) <= 1e-5
    assert {name: tuple(x.shape) for name, x in pyramid.items()} == {
        "p2": (2, 16, 24, 16), "p3": (2, 16, 12, 8), "p4": (2, 16, 6, 4), "p5": (2, 16, 3, 2), "p6": (2, 16, 2, 1),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("design", "widths"),
    # A ViT-Ti has 192 channels: kept, or halved by each transposed convolution (arXiv 2203.16527, section 3).
    [("vit_fpn", [192, 192, 192, 192]), ("vit_simple", [48, 96, 192, 192])],
)
def test_widths_of_the_enlarged_taps(design: str, widths: list[int]) -> None:
    detector, _ = detector_of(open_backbone(VIT), design=design, norm="LN", taps=(0, 1, 1, 3), **SMALL)
    part: Any = detector.backbone
    with torch.inference_mode():
        maps = part.bottom_up(IMAGES)
    assert [x.shape[1] for x in maps.values()] == widths
    assert [shape.channels for shape in part.bottom_up.output_shape().values()] == widths
    between = part.bottom_up.scales[0][1]
    assert between.weight.shape == (96 if design == "vit_simple" else 192,)


@pytest.mark.parametrize("design", ["vit_fpn", "vit_simple"])
def test_under_jitter_a_vit_sees_the_whole_square(design: str) -> None:
    """An image, and the same with zeros on its right and below to make a square of it, give the same maps."""
    settings = DetectorConfig(design=design, norm="LN", taps=(0, 1, 1, 3), **SMALL)  # type: ignore[arg-type]
    backbone = trained(VIT)
    for jitter, side in ((128, 128), (100, 128), (32, 96)):
        config = DetectionConfig(data=DetectionDataConfig(large_scale_jitter=jitter), detector=settings)
        cfg = detectron2_config(config, backbone, 5, ALONE)
        part: Any = build_detector(cfg, settings, backbone, seed=0)[0].eval().backbone
        padded = torch.zeros(2, 3, side, 128 if side == 128 else 64)
        padded[..., :96, :64] = IMAGES
        with torch.inference_mode():
            small, large = part(IMAGES), part(padded)
        assert small["p2"].shape[-2:] == (side // 4, padded.shape[-1] // 4)
        assert all(torch.equal(x, large[name]) for name, x in small.items())


@pytest.mark.parametrize("design", ["vit_fpn", "vit_simple"])
def test_every_trained_parameter_of_a_vit_detector_has_a_gradient(design: str) -> None:
    backbone = trained(VIT)
    detector, _ = detector_of(backbone, design=design, norm="BN", taps=(0, 0, 1, 2), **SMALL)
    part: Any = detector.backbone
    sum(x.square().mean() for x in part(IMAGES).values()).backward()
    without = [name for name, p in part.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    frozen = {
        name.split(".")[2] + "." + name.split(".")[3] for name, p in part.named_parameters() if not p.requires_grad
    }
    assert frozen == {"blocks.3", "norm.weight", "norm.bias"}


def test_weights_of_another_architecture_change_nothing() -> None:
    detector, _ = detector_of(open_backbone("timm:resnet18"), **SMALL)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    for ckpt, message in (
        ("timm:resnet34", "96 unexpected"),
        ("timm:resnet18(channels=[64,128,256,510])", "mis-shaped"),
        ("timm:resnet50", "unexpected"),
    ):
        with pytest.raises(UserError, match=message):
            load_backbone(detector, open_backbone(ckpt), design_named("resnet_fpn"))
    smaller, _ = detector_of(open_backbone("timm:resnet34"), **SMALL)
    with pytest.raises(UserError, match="120 matched, 96 missing"):
        load_backbone(smaller, open_backbone("timm:resnet18"), design_named("resnet_fpn"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in detector.state_dict().items())


def test_the_seed_decides_the_heads_alone() -> None:
    backbone = open_backbone("timm:resnet18")
    config = DetectionConfig(detector=DetectorConfig(**SMALL))  # type: ignore[arg-type]
    cfg = detectron2_config(config, backbone, 5, ALONE)
    one, same, other = (build_detector(cfg, config.detector, backbone, seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    head, body = "roi_heads.box_predictor.cls_score.weight", "backbone.bottom_up.res4.0.conv1.weight"
    assert not torch.equal(one[head], other[head])
    assert torch.equal(one[body], other[body])


# The optimiser


def test_rates_fall_towards_a_vits_early_blocks() -> None:
    settings = {"design": "vit_simple", "norm": "LN", "taps": (3,) * 4, **SMALL}
    detector, _ = detector_of(open_backbone(VIT), **settings)
    solver = SolverConfig(optimiser="adamw", weight_decay=0.1, layer_decay=0.5)
    config = DetectionConfig(detector=DetectorConfig(**settings), solver=solver)
    groups = parameter_groups(detector, 1.0, config)
    where = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    named = dict(detector.named_parameters())
    prefix = "backbone.bottom_up.vit."
    assert where[id(named[prefix + "patch_embed.proj.weight"])] == (0.5**5, 0.1)
    assert where[id(named[prefix + "pos_embed"])] == (0.5**5, 0.0)
    assert where[id(named[prefix + "cls_token"])] == (0.5**5, 0.0)
    assert where[id(named[prefix + "blocks.0.attn.qkv.weight"])] == (0.5**4, 0.1)
    assert where[id(named[prefix + "blocks.3.attn.qkv.weight"])] == (0.5, 0.1)
    assert where[id(named[prefix + "blocks.3.norm1.weight"])] == (0.5, 0.0)
    assert where[id(named["backbone.levels.0.narrow.weight"])] == (1.0, 0.1)
    assert where[id(named["roi_heads.box_predictor.cls_score.bias"])] == (1.0, 0.0)
    assert sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in named.values())


def test_the_schedule_warms_up_and_falls() -> None:
    backbone = open_backbone("timm:resnet18(channels=[8,16,24,32])")
    solver = SolverConfig(lr=0.02, iterations=20, steps=(10, 15), warmup=4)
    config = DetectionConfig(detector=DetectorConfig(**SMALL), solver=solver)  # type: ignore[arg-type]
    cfg = detectron2_config(config, backbone, 5, ALONE)
    optimiser, scheduler = build(cfg, config, build_detector(cfg, config.detector, backbone, 0)[0])
    rates = []
    for _ in range(20):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    warm = [0.02 * (0.001 + 0.999 * step / 4) for step in range(4)]
    assert rates == pytest.approx([*warm, *[0.02] * 6, *[0.002] * 5, *[0.0002] * 5])
