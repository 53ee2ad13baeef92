"""A ViT in MMSegmentation: final norm, class token, weight decay and the schedule, against timm and closed forms."""

# ruff: noqa: E402, the packages are made importable first

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("mmseg", reason="needs MMSegmentation", exc_type=ImportError)

from converters.engines.openmmlab import import_mmseg

import_mmseg()

from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS

import evaluate.segmentation.engine.training_extensions  # noqa: F401, registers QuietLayerDecay
from converters.open import open_backbone
from core.backbones import Backbone, family_of
from core.backbones.positions import PosResize
from core.config import load_config
from core.distributed import Processes
from core.errors import UserError
from evaluate.common.context import RunContext
from evaluate.common.protocol import protocol_file
from evaluate.segmentation.engine.engine_settings import engine_settings
from evaluate.segmentation.model.segmentor import build_segmentor
from evaluate.segmentation.protocol import SegmentConfig

ALONE = RunContext(Processes(0, 1, torch.device("cpu")), workers=0, seed=0)
SMALL = ("crop.size=64", "inference.stride=64")
ARGS = "img_size=64, depth=12, embed_dim=48, num_heads=3"
TINY_VIT = f"timm:vit_small_patch16_224({ARGS})"


def build(name: str, *overrides: str, backbone: Backbone | None = None) -> tuple[Any, str, dict[str, Any]]:
    config = load_config(SegmentConfig, protocol_file(name, "segmentation"), overrides)
    backbone = backbone or with_random_norm(open_backbone(TINY_VIT))
    settings = engine_settings(config, backbone, Path("/d"), ("a",) * config.data.classes, ALONE, Path("/w"))
    model, report = build_segmentor(config, settings["model"], backbone, ALONE)
    return model.eval(), report, settings


def with_random_norm(backbone: Backbone) -> Backbone:
    model: Any = backbone.model
    with torch.no_grad():
        for tensor in (model.norm.weight, model.norm.bias, model.cls_token, model.pos_embed):
            tensor.normal_(1, 0.3, generator=torch.Generator().manual_seed(1))
    return backbone


def maps_of(vit: Any, images: Tensor, norm: bool) -> list[Tensor]:
    found: list[Tensor] = vit.eval().forward_intermediates(
        images, indices=[3, 5, 7, 11], norm=norm, output_fmt="NCHW", intermediates_only=True
    )
    return found


@pytest.mark.parametrize("on", ["none", "last", "every"])
def test_the_final_norm_reaches_the_taps_that_the_protocol_names(on: str) -> None:
    backbone = with_random_norm(open_backbone(TINY_VIT))
    norm = str(on != "none").lower()
    overrides = (f"network.final_norm={norm}", f"network.final_norm_on={'every' if on == 'every' else 'last'}")
    model, report, _ = build("ade20k_upernet_vit_s_160k", *SMALL, *overrides, backbone=backbone)
    assert (re.search(r"148 of 150 .*final norm", report) is not None) == (on == "none")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours = model.backbone(images)
        raw, normed = (maps_of(backbone.model, images, norm) for norm in (False, True))
    wanted = {"none": raw, "last": [*raw[:3], normed[3]], "every": normed}[on]
    for mine, theirs in zip(ours, wanted, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)
    assert not torch.allclose(raw[0], normed[0], atol=0.1)


def test_a_norm_of_every_tap_needs_the_norm() -> None:
    with pytest.raises(UserError, match="final_norm"):
        build("ade20k_semfpn_vit_s_40k", *SMALL, "network.final_norm_on=every")


def test_a_dropped_class_token_takes_no_part_in_attention() -> None:
    """As in a network that never had one, with the position embeddings of the patches alone."""
    backbone = with_random_norm(open_backbone(TINY_VIT))
    model, _, _ = build("ade20k_semfpn_vit_s_40k", *SMALL, "network.taps=[3,5,7,11]", backbone=backbone)
    without: Any = open_backbone(f"timm:vit_small_patch16_224({ARGS}, class_token=False, global_pool='')").model
    state = {name: tensor for name, tensor in backbone.model.state_dict().items() if name != "cls_token"}
    without.load_state_dict(state | {"pos_embed": state["pos_embed"][:, 1:]})
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for mine, theirs in zip(model.backbone(images), maps_of(without, images, norm=False), strict=True):
            assert mine.shape == (2, 48, 4, 4)
            assert torch.allclose(mine, theirs, atol=1e-4)
        kept, _, _ = build("ade20k_semfpn_vit_s_40k", *SMALL, "network.class_token=true", backbone=backbone)
        assert not torch.allclose(kept.backbone(images)[3], model.backbone(images)[3], atol=1e-2)


@pytest.mark.parametrize("rule", ["timm", "dinov2", "bicubic"])
def test_positions_are_resized_by_the_backbones_rule(rule: PosResize) -> None:
    """To the crops once, and from there for whole images of another size, as in the probes."""
    small = f"timm:vit_small_patch16_224(img_size=64, depth=4, embed_dim=48, num_heads=3, pos_resize={rule})"
    backbone = with_random_norm(open_backbone(small))
    given = ("network.taps=[0,1,2,3]", "network.final_norm=false", "network.final_norm_on=last", "inference.mode=whole")
    model, report, settings = build(
        "ade20k_linear_vit_s", "crop.size=96", "optim.layer_decay=null", *given, backbone=backbone
    )
    assert re.search(rf"16 to 6×6 .*{rule}\b", report)
    assert settings["model"]["backbone"]["img_size"] == [96, 96]
    vit: Any = open_backbone(small.replace("img_size=64", "img_size=96")).model
    state = backbone.model.state_dict()
    images = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        own = family_of(backbone.model).maps(backbone.model, images)
        for found, (_, expected) in zip(model.backbone(images), own, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        vit.load_state_dict(state | {"pos_embed": model.backbone.pos_embed})
        images = torch.randn(1, 3, 64, 128)
        for found, (_, expected) in zip(model.backbone(images), family_of(vit).maps(vit, images), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def groups_of(model: Any, settings: dict[str, Any]) -> dict[int, tuple[float, float]]:
    groups = build_optim_wrapper(model, settings["optim_wrapper"]).optimizer.param_groups
    return {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


@pytest.mark.parametrize(
    ("overrides", "norms", "embeddings"),
    [
        ((), 0.01, 0.0),  # SelfPatch: its key "norm" fits no norm's name, its keys of the embeddings do
        (("optim.decay_norms=false", "optim.decay_embeddings=null"), 0.0, 0.0),
        (("optim.decay_embeddings=true",), 0.01, 0.01),
    ],
)
def test_what_decays(overrides: tuple[str, ...], norms: float, embeddings: float) -> None:
    model, _, settings = build("ade20k_semfpn_vit_s_40k", *SMALL, *overrides)
    groups, vit = groups_of(model, settings), model.backbone
    assert groups[id(vit.layers[0].ln1.weight)][1] == norms
    assert groups[id(vit.pos_embed)][1] == groups[id(vit.cls_token)][1] == embeddings
    assert groups[id(vit.layers[0].ffn.layers[1].weight)][1] == 0.01


def test_the_norm_of_every_tap_is_trained_at_the_full_rate_without_decay() -> None:
    model, _, settings = build("ade20k_upernet_vit_s_160k", *SMALL, "head.channels=16")
    assert groups_of(model, settings)[id(model.backbone.ln1.weight)] == (3e-5, 0.0)


@pytest.mark.parametrize("under", [True, False])
def test_the_decay_begins_with_the_run_or_after_the_warm_up(under: bool) -> None:
    """MMSegmentation 0.x: lr(i) · (1 − (1 − i / warmup) (1 − ratio)), with lr(i) = peak · (1 − i / iterations)."""
    overrides = ("schedule.iterations=200", "schedule.warmup=40", f"schedule.decay_under_warmup={str(under).lower()}")
    model, _, settings = build("ade20k_semfpn_vit_s_40k", *SMALL, *overrides)
    optimiser = torch.optim.SGD(model.decode_head.parameters(), lr=1.0)
    schedulers = [PARAM_SCHEDULERS.build({**one, "optimizer": optimiser}) for one in settings["param_scheduler"]]
    rates = []
    for _ in range(200):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        for scheduler in schedulers:
            scheduler.step()
    start = 0 if under else 40
    for step in (0, 5, 20, 39, 41, 60, 100, 150, 180, 198):
        warm = min(1.0, 1 - (1 - step / 40) * (1 - 1e-6))
        decay = 1 - max(0, step - start) / (200 - start)
        assert rates[step] == pytest.approx(warm * decay, abs=0.03)
    assert (rates[39] < 0.85) == under
