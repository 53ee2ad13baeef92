"""timm's own networks inside detectors: equal maps, real strides, frozen backbones, and runs of the command."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from converters.engines.dense_maps import at_stride, freeze_unused, image_maps, measure_maps, pyramid_taps
from converters.open import open_backbone
from core.backbones import Backbone, family_of
from core.checkpoints import read_tensors
from core.config import load_config, to_dict
from core.distributed import Processes
from core.errors import UserError
from evaluate.detection.model.detector import build_detector, detectron2_config
from evaluate.detection.model.fit import check_fit
from evaluate.detection.probe import find_protocol
from evaluate.detection.settings import DetectionConfig, DetectorConfig, SolverConfig
from evaluate.detection.training.optimiser import parameter_groups
from tests.evaluate.detection.tiny_detection import arguments, make_place, result, run, steps, stopped

ALONE = Processes(0, 1, torch.device("cpu"))
IMAGES = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
SMALL = {"pyramid_width": 16, "box_width": 16, "mask_width": 8}
VIT14 = "timm:vit_tiny_patch16_224(depth=4, embed_dim=48, patch_size=14, img_size=56, reg_tokens=4, init_values=1.0)"
STAGES = "timm:resnet18d(channels=[8,16,24,32], stem_width=8)"
CONVNEXT = "timm:convnext_atto(dims=[8,16,24,32], depths=[1,1,2,1])"
SWIN = "timm:swin_tiny_patch4_window7_224(embed_dim=16, depths=[1,1,2,1], num_heads=[1,2,2,4])"
DINOV2 = "timm:vit_base_patch14_dinov2(embed_dim=48, depth=12, num_heads=3, img_size=56)"
FOUR_CHANNELS = "timm:resnet18(in_chans=4, mean=[.5,.5,.5,.5], std=[.5,.5,.5,.5])"
DINOV3 = "timm:vit_small_patch16_dinov3(embed_dim=48, depth=4, num_heads=3)"


def detector_of(backbone: Backbone, **detector: Any) -> tuple[Any, str]:
    config = DetectionConfig(detector=DetectorConfig(**{**SMALL, **detector}))
    check_fit(config, backbone)
    cfg = detectron2_config(config, backbone, 5, ALONE)
    model, coverage = build_detector(cfg, config.detector, backbone, seed=0)
    return model, coverage.summary()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("wrapped"))


def test_a_map_on_another_stride_keeps_its_place() -> None:
    """A map that holds the x of its cells' centres still does at another stride, away from the border."""
    for stride, wanted in ((14, 16), (14, 8), (12, 16), (16, 14.5)):
        x = (torch.arange(30.0) + 0.5) * stride
        cells = int(20 * stride / wanted)
        found = at_stride(x.expand(1, 1, 30, 30), stride, wanted, (cells, cells))[0, 0, 3]
        expected = (torch.arange(float(cells)) + 0.5) * wanted
        inside = expected > stride
        torch.testing.assert_close(found[inside], expected[inside], rtol=0, atol=1e-3)
    same = torch.randn(1, 2, 6, 4)
    assert torch.equal(at_stride(same, 16, 16, (5, 4)), same[..., :5, :])


@pytest.mark.parametrize(("ckpt", "norm"), [(STAGES, "SyncBN"), (CONVNEXT, "LN"), (SWIN, "LN")])
def test_a_hierarchical_network_gives_its_own_maps(ckpt: str, norm: str) -> None:
    backbone = open_backbone(ckpt)
    detector, summary = detector_of(backbone, design="stages_fpn", norm=norm)
    count = len(backbone.model.state_dict())
    assert summary == f"{count} matched, 0 missing, 0 unexpected, 0 mis-shaped"
    part = detector.eval().backbone
    with torch.inference_mode():
        expected = family_of(backbone.model).maps(backbone.model.eval(), IMAGES)
        assert [stride for stride, _ in expected] == [4, 8, 16, 32]
        found = part.bottom_up.maps(IMAGES)
        assert [float((a - b).abs().max()) for a, (_, b) in zip(found, expected, strict=True)] == [0.0] * 4
        pyramid = part(IMAGES)
        first = part.bottom_up(IMAGES)["res2"].mean(dim=1)
    assert [tuple(x.shape[-2:]) for x in pyramid.values()] == [(24, 16), (12, 8), (6, 4), (3, 2), (2, 1)]
    assert (float(first.abs().max()) < 1e-5) == (norm == "LN")  # a fresh layer norm has mean 0 over channels


@pytest.mark.parametrize("design", ["vit_fpn", "vit_simple"])
def test_patches_of_14_pixels_reach_the_pyramids_strides(design: str) -> None:
    backbone = open_backbone(VIT14)
    detector, summary = detector_of(backbone, design=design, norm="LN", taps=(0, 1, 2, 2))
    assert summary.endswith(" matched, 0 missing, 0 unexpected, 0 mis-shaped")
    part = detector.eval().backbone
    with torch.inference_mode():
        padded = torch.zeros(2, 3, 98, 70)
        padded[..., :96, :64] = IMAGES
        own = family_of(backbone.model).maps(backbone.model.eval(), padded, (0, 1, 2))
        for (_, expected), (stride, found) in zip(own, image_maps(part.bottom_up.vit, IMAGES, (0, 1, 2)), strict=True):
            assert (stride, tuple(found.shape[-2:])) == (14, (7, 5))
            assert float((found - expected).abs().max()) == 0.0
        resized = part.bottom_up.maps(IMAGES)
        pyramid = part(IMAGES)
    assert [tuple(x.shape[-2:]) for x in resized] == [(6, 4)] * 4
    assert [tuple(x.shape[-2:]) for x in pyramid.values()] == [(24, 16), (12, 8), (6, 4), (3, 2), (2, 1)]
    frozen = {name.split(".")[4] for name, p in detector.named_parameters() if not p.requires_grad and "blocks" in name}
    assert frozen == {"3"}


@pytest.mark.parametrize(("patch", "enlarged"), [(8, [2, 1, 0.5, 0.25]), (32, [8, 4, 2, 1])])
def test_other_patches_are_enlarged_and_halved_from_their_own_stride(patch: int, enlarged: list[float]) -> None:
    backbone = open_backbone(f"timm:vit_tiny_patch16_224(depth=1, embed_dim=48, patch_size={patch}, img_size=64)")
    detector, _ = detector_of(backbone, design="vit_simple", norm="LN", taps=(0,) * 4)
    bottom_up = detector.eval().backbone.bottom_up
    with torch.inference_mode():
        maps = bottom_up(IMAGES)
    assert [x.shape[-1] * patch / 64 for x in maps.values()] == enlarged
    widths = [shape.channels for shape in bottom_up.output_shape().values()]
    assert [x.shape[1] for x in maps.values()] == widths
    assert widths == [round(48 * min(1, 1 / factor)) for factor in enlarged]


@pytest.mark.parametrize(
    ("ckpt", "settings"),
    [
        (STAGES, {"design": "stages_fpn"}),
        ("timm:resnet18(channels=[8,16,24,32])", {"design": "resnet_fpn"}),
        (DINOV3, {"design": "vit_simple", "norm": "LN", "taps": (0, 1, 2, 3)}),
    ],
)
def test_a_frozen_backbone_stays_as_it_is(ckpt: str, settings: dict[str, Any]) -> None:
    backbone = open_backbone(ckpt)
    detector, _ = detector_of(backbone, frozen=True, **settings)
    part: nn.Module = detector.backbone
    before = {name: tensor.clone() for name, tensor in part.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=0.1)
    detector.train()
    sum(x.square().mean() for x in part(IMAGES).values()).backward()
    optimiser.step()
    changed = {name for name, tensor in part.state_dict().items() if not torch.equal(tensor, before[name])}
    own = tuple(f"bottom_up.{name}" for name in ("network.", "vit.", "stem.", "res"))
    assert changed
    assert not [name for name in changed if name.startswith(own)]


def test_what_no_tap_needs_is_found_without_names() -> None:
    backbone = open_backbone("timm:resnet18(channels=[8,16,24,32])")
    unused = freeze_unused(backbone.model, (1,))
    assert {name.split(".")[0] for name in unused} == {"layer3", "layer4"}
    assert measure_maps(backbone.model, "") == [(4, 8), (8, 16), (16, 24), (32, 32)]
    with pytest.raises(UserError, match=r"\b32\b"):
        pyramid_taps(open_backbone("timm:resnet18(channels=[8,16,24,32], output_stride=16)").model, "")


@pytest.mark.parametrize(
    ("name", "ckpt", "overrides", "way_out"),
    [
        ("scenes_maskrcnn_r18_fpn_300it", VIT14, [], "detector.design=vit_"),
        ("coco_maskrcnn_vit_b_vitdet", STAGES, [], "detector.design=stages_fpn"),
        ("scenes_maskrcnn_r18_fpn_300it", "timm:resnet18d", [], "detector.design=stages_fpn"),
        ("scenes_maskrcnn_r18_fpn_300it", "timm:resnet18", ["solver.layer_decay=0.9"], "solver.layer_decay"),
        ("scenes_maskrcnn_r18_fpn_300it", "timm:hiera_tiny_224", ["detector.design=stages_fpn"], "any size"),
        (
            "scenes_maskrcnn_r18_fpn_300it",
            FOUR_CHANNELS,
            [],
            "4 channels.*RGB",
        ),
    ],
)
def test_the_way_out_is_named(name: str, ckpt: str, overrides: list[str], way_out: str) -> None:
    config = load_config(DetectionConfig, find_protocol(name), overrides)
    with pytest.raises(UserError, match=way_out):
        check_fit(config, open_backbone(ckpt))


def test_a_vit_of_14_pixels_trains_frozen_and_resumes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(
        place, tmp_path, "detector.design=vit_simple", "detector.taps=[0,1,2,3]", "--frozen", "solver.precise_bn=0",
        ckpt=VIT14,
    )  # fmt: skip
    run(monkeypatch, *given, "solver.checkpoint_every=4")
    first = result(tmp_path)
    assert "detector.frozen=true" in first["protocol"]
    assert first["settings"]["detector"]["frozen"] is True
    assert "(frozen)" in capsys.readouterr().out
    state = read_tensors(tmp_path / "detector.pt")["model"]
    for name, tensor in open_backbone(VIT14).model.state_dict().items():
        assert torch.equal(state[f"backbone.bottom_up.vit.{name}"], tensor)
    run(monkeypatch, *given)
    assert "step 6 of 6" in capsys.readouterr().out
    assert result(tmp_path)["metrics"] == first["metrics"]
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_a_hierarchical_network_trains(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, *arguments(
        place, tmp_path, "detector.design=stages_fpn", "detector.norm=LN", "solver.optimiser=adamw", "solver.lr=0.001",
        "solver.layer_decay=0.5", "detector.drop_path=0.1", ckpt=CONVNEXT,
    ))  # fmt: skip
    state = read_tensors(tmp_path / "detector.pt")["model"]
    before = open_backbone(CONVNEXT).model.state_dict()
    moved = [name for name in before if not torch.equal(state[f"backbone.bottom_up.network.{name}"], before[name])]
    assert len(moved) > len(before) / 2
    assert result(tmp_path)["metrics"]["box_ap"] is not None
    capsys.readouterr()
    error = stopped(monkeypatch, capsys, *arguments(place, tmp_path / "x", ckpt=STAGES))
    assert "detector.design=stages_fpn" in error


def test_rates_follow_timms_groups() -> None:
    backbone = open_backbone(CONVNEXT)
    detector, _ = detector_of(backbone, design="stages_fpn", norm="LN")
    solver = SolverConfig(optimiser="adamw", weight_decay=0.1, layer_decay=0.5)
    config = DetectionConfig(detector=DetectorConfig(design="stages_fpn", norm="LN"), solver=solver)
    groups = parameter_groups(detector, 1.0, config)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    network, top = detector.backbone.bottom_up.network, family_of(backbone.model).layer_groups(backbone.model).top
    assert rates[id(network.stem[0].weight)] == (0.5**top, 0.1)
    assert rates[id(network.stages[3].blocks[0].mlp.fc1.weight)] == (0.5, 0.1)
    assert rates[id(network.stages[3].blocks[0].gamma)] == (0.5, 0.0)
    assert rates[id(detector.backbone.bottom_up.norms[0].weight)] == (1.0, 0.0)
    assert rates[id(detector.backbone.fpn_lateral2.weight)] == (1.0, 0.1)


THREE_TIMES = {
    "optimiser": "adamw", "lr": 1e-4, "weight_decay": 0.05, "batch": 16, "processes": 8, "iterations": 36 * 7330,
    "steps": [27 * 7330, 33 * 7330],
}  # fmt: skip
DINOV2_VITDET = {
    "optimiser": "adamw", "lr": 1e-4, "weight_decay": 0.1, "layer_decay": 0.7, "batch": 64, "processes": 64,
    "iterations": 184_375, "steps": [163_889, 177_546], "warmup": 250, "amp": True,
}  # fmt: skip
SIDES = list(range(480, 801, 32))


@pytest.mark.parametrize(
    ("name", "ckpt", "solver", "detector", "data"),
    [
        ("coco_maskrcnn_swin_t_3x", SWIN, {**THREE_TIMES, "layer_decay": 1.0, "warmup": 1000, "amp": False},
         {"design": "stages_fpn", "norm": "LN", "drop_path": 0.2}, {"short_sides": SIDES, "longest": 1333}),
        ("coco_maskrcnn_convnext_t_3x", CONVNEXT, {**THREE_TIMES, "layer_decay": 0.983, "warmup": 500, "amp": True},
         {"design": "stages_fpn", "norm": "LN", "drop_path": 0.4}, {"short_sides": SIDES, "longest": 1333}),
        *((f"coco_maskrcnn_dinov2_vit_{size}_vitdet", DINOV2, DINOV2_VITDET,
           {"design": "vit_simple", "norm": "LN", "drop_path": 0.1, "taps": [11] * 4}, {"large_scale_jitter": 1024})
          for size in "sb"),
    ],
)  # fmt: skip
def test_a_protocols_values(
    name: str, ckpt: str, solver: dict[str, Any], detector: dict[str, Any], data: dict[str, Any]
) -> None:
    """Transcribed from the configs that the protocols' headers name; they take a narrow network of the same kind."""
    config = load_config(DetectionConfig, find_protocol(name))
    for part, wanted in ((config.solver, solver), (config.detector, detector), (config.data, data)):
        found = to_dict(part)
        assert {key: found[key] for key in wanted} == wanted
    check_fit(config, open_backbone(ckpt))
