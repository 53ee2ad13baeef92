"""Which backbones a detection protocol takes: the recipes' own, and the reasons for those that are refused."""

# Detectron2 is looked for before what imports it; its config's names look like constants.
# ruff: noqa: E402, SIM300

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from converters.open import open_backbone
from core.backbones import Backbone, BackboneConfig, build_backbone
from core.config import load_config
from core.distributed import Processes
from core.errors import UserError
from evaluate.detection.model.detector import build_detector, detectron2_config
from evaluate.detection.model.fit import check_fit
from evaluate.detection.probe import find_protocol
from evaluate.detection.settings import DetectionConfig
from tests.torchrun import ROOT

pytestmark = pytest.mark.usefixtures("no_weights")
RECIPES = sorted((ROOT / "configs" / "pretrain").glob("r50_*.yaml"))
RESNETS = (
    "coco_maskrcnn_r50_c4_1x", "coco_maskrcnn_r50_c4_2x", "voc_frcnn_r50_c4_24k", "coco_maskrcnn_r50_fpn_1x_mulan",
    "coco_maskrcnn_r50_fpn_1x_moco", "coco_maskrcnn_r50_fpn_1x_densecl",
)  # fmt: skip
ALONE = Processes(0, 1, torch.device("cpu"))


def config_of(recipe: Path) -> BackboneConfig:
    return BackboneConfig(**yaml.safe_load(recipe.read_text())["backbone"])


def of_recipe(recipe: Path) -> Backbone:
    return Backbone(config_of(recipe), build_backbone(config_of(recipe)), recipe.stem)


def test_the_recipes_resnets_fit_every_protocol_for_resnets() -> None:
    assert "r50_byol_multitask" in [recipe.stem for recipe in RECIPES]
    backbones = [open_backbone("timm:resnet50")]
    for recipe in RECIPES:
        if config_of(recipe) not in [other.config for other in backbones]:
            backbones.append(of_recipe(recipe))
    assert {"zero_init_last": False} in [backbone.config.args for backbone in backbones]
    configs = [
        {
            key: value
            for key, value in detectron2_config(config, backbone, 20, ALONE).MODEL.items()
            if key in ("BACKBONE", "RESNETS", "ROI_HEADS")
        }
        for config in (load_config(DetectionConfig, find_protocol(name)) for name in RESNETS)
        for backbone in backbones
        if check_fit(config, backbone) is None
    ]
    # Each protocol makes the same network of all of them.
    assert len(configs) == len(RESNETS) * len(backbones)
    for first in range(0, len(configs), len(backbones)):
        assert all(other == configs[first] for other in configs[first + 1 : first + len(backbones)])


@pytest.mark.parametrize(("name", "depth", "tensors"), [("resnet50", 50, 318), ("resnet101", 101, 624)])
def test_arguments_of_the_start_change_no_depth_and_every_tensor_is_loaded(name: str, depth: int, tensors: int) -> None:
    config = load_config(DetectionConfig, find_protocol("voc_frcnn_r50_c4_24k"))
    given = BackboneConfig(name, {"zero_init_last": False})
    backbone = Backbone(given, build_backbone(given), name)
    cfg = detectron2_config(config, backbone, 20, ALONE)
    assert cfg.MODEL.RESNETS.DEPTH == depth
    _, coverage = build_detector(cfg, config.detector, backbone, 0)
    assert coverage.summary() == f"{tensors} matched, 0 missing, 0 unexpected, 0 mis-shaped"


def test_a_resnet_50_of_another_shape_is_refused_for_c4() -> None:
    config = load_config(DetectionConfig, find_protocol("voc_frcnn_r50_c4_24k"))
    wide = open_backbone("timm:resnet50(channels=[32,64,128,256], zero_init_last=false)")
    with pytest.raises(UserError, match=r"\b50, 101 and 152\b"):
        check_fit(config, wide)
    # Were its arguments overlooked, its tensors would tell.
    backbone = Backbone(BackboneConfig("resnet50"), wide.model, "narrow")
    with pytest.raises(UserError, match=r"narrow.* mis-shaped"):
        build_detector(detectron2_config(config, backbone, 20, ALONE), config.detector, backbone, 0)


@pytest.mark.parametrize(
    ("name", "ckpt", "message"),
    [
        ("coco_maskrcnn_r50_c4_1x", "timm:resnet18", "res5"),
        ("voc_frcnn_r50_c4_24k", "timm:resnet34", "FPN"),
        ("coco_maskrcnn_r50_fpn_1x_moco", "timm:vit_tiny_patch16_224", "coco_maskrcnn_r50_fpn_1x_moco.*ResNets"),
        ("coco_maskrcnn_vit_s_selfpatch", "timm:resnet18", "coco_maskrcnn_vit_s_selfpatch.*ViTs"),
        (
            "coco_maskrcnn_vit_s_selfpatch",
            "timm:vit_tiny_patch16_224(depth=4)",
            r"give e\.g\. detector\.taps=\[0,1,2,3\]",
        ),
        ("coco_maskrcnn_vit_s_selfpatch", "timm:vit_tiny_patch16_224(depth=12, patch_size=[16, 8])", "16×8"),
        ("coco_maskrcnn_r50_fpn_1x_moco", "timm:resnet18(stem=small)", "7×7"),
        ("coco_maskrcnn_r50_fpn_1x_moco", "timm:resnetaa50", "resnetaa50.*anti-aliasing"),
        (
            "coco_maskrcnn_r50_fpn_1x_moco",
            "timm:resnetblur18",
            "anti-aliasing",
        ),
        (
            "coco_maskrcnn_r50_fpn_1x_moco",
            "timm:resnet18(output_stride=8)",
            "dilated.*output_stride",
        ),
        (
            "coco_maskrcnn_r50_fpn_1x_moco",
            "timm:resnet50(output_stride=16)",
            "dilated",
        ),
        ("coco_maskrcnn_r50_fpn_1x_moco", "timm:resnet50_gn", "GroupNorm"),
        ("coco_maskrcnn_r50_fpn_1x_moco", "timm:resnet18(act_layer=gelu)", "ReLU"),
        ("coco_maskrcnn_r50_fpn_1x_moco", "timm:resnet18(replace_stem_pool=true)", "max pooling"),
        ("coco_maskrcnn_r50_fpn_1x_moco", "timm:ecaresnet50t", "ecaresnet50t"),
        ("coco_maskrcnn_r50_fpn_1x_moco", "timm:resnet18d", "resnet18d"),
        ("coco_maskrcnn_r50_fpn_1x_moco", "pixels", "^pixels"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(name: str, ckpt: str, message: str) -> None:
    backbone: Backbone = open_backbone(ckpt)
    with pytest.raises(UserError, match=message):
        check_fit(load_config(DetectionConfig, find_protocol(name)), backbone)
