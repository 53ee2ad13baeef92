"""The ViT detection protocols: every number of theirs, against the recipes they follow."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

from typing import Any

import pytest

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from detectron2 import model_zoo

from core.config import load_config, to_dict
from evaluate.detection.probe import find_protocol
from evaluate.detection.settings import DetectionConfig
from tests.evaluate.segmentation.resolved_protocol import changed, resolved

pytestmark = pytest.mark.usefixtures("no_weights")
FPN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
EPOCH = -(-117_266 // 16)  # images of COCO with objects, 16 a step
BOTH = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],  # Detectron2's default: there is no ResNet
    "TEST.PRECISE_BN.NUM_ITER": 0,
}
SELFPATCH = {
    **BOTH,
    "INPUT.MIN_SIZE_TRAIN": [800],
    "MODEL.BACKBONE.NAME": "build_vit_fpn_backbone",
    "MODEL.SSL.NAME": "vit_small_patch16_224",
    "MODEL.SSL.TAPS": [3, 5, 7, 11],
    "MODEL.SSL.NORM": "SyncBN",
    "MODEL.SSL.DROP_PATH": 0.05,
    "MODEL.SSL.SQUARE": 0,
    "SOLVER.BASE_LR": 1e-4,
    "SOLVER.WARMUP_ITERS": 500,
    "SOLVER.WEIGHT_DECAY": 0.05,
    "SOLVER.MAX_ITER": 12 * EPOCH,
    "SOLVER.STEPS": [8 * EPOCH, 11 * EPOCH],
}
VITDET = {
    **BOTH,
    "INPUT.MASK_FORMAT": "bitmask",
    "INPUT.MAX_SIZE_TRAIN": 1024,
    "INPUT.MIN_SIZE_TEST": 1024,
    "INPUT.MAX_SIZE_TEST": 1024,
    "MODEL.BACKBONE.NAME": "build_vit_simple_backbone",
    "MODEL.FPN.NORM": "LN",
    "MODEL.RPN.CONV_DIMS": [-1, -1],
    "MODEL.ROI_BOX_HEAD.NAME": "build_box_head_of_any_norm",
    "MODEL.ROI_BOX_HEAD.NORM": "LN",
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 4,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_MASK_HEAD.NAME": "build_mask_head_of_any_norm",
    "MODEL.ROI_MASK_HEAD.NORM": "LN",
    "MODEL.SSL.NAME": "vit_base_patch16_224",
    "MODEL.SSL.TAPS": [11, 11, 11, 11],
    "MODEL.SSL.NORM": "LN",
    "MODEL.SSL.DROP_PATH": 0.1,
    "MODEL.SSL.SQUARE": 1024,
    "SOLVER.AMP.ENABLED": True,
    "SOLVER.IMS_PER_BATCH": 64,
    "SOLVER.BASE_LR": 1e-4,
    "SOLVER.WEIGHT_DECAY": 0.1,
    "SOLVER.MAX_ITER": 184_375,
    "SOLVER.STEPS": [163_889, 177_546],
    "SOLVER.WARMUP_ITERS": 250,
}


@pytest.mark.parametrize(
    ("name", "ckpt", "expected"),
    [
        ("coco_maskrcnn_vit_s_selfpatch", "timm:vit_small_patch16_224", SELFPATCH),
        ("coco_maskrcnn_vit_b_vitdet", "timm:vit_base_patch16_224", VITDET),
    ],
)
def test_a_vit_protocol_is_the_zoos_config_and_what_the_recipe_changes(
    name: str, ckpt: str, expected: dict[str, Any]
) -> None:
    assert changed(resolved(name, ckpt, 80), model_zoo.get_config(FPN)) == expected


COMMON = {
    "batch": 16, "global_batch": None, "schedule": 1.0, "precise_bn": 0, "amp": False, "layer_decay": 1.0,
    "checkpoint_every": 5000, "log_every": 20,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "coco_maskrcnn_vit_s_selfpatch",
            {"optimiser": "adamw", "lr": 1e-4, "weight_decay": 0.05, "processes": 8, "warmup": 500,
             "iterations": 87_960, "steps": [58_640, 80_630]},
        ),
        (
            "coco_maskrcnn_vit_b_vitdet",
            {"optimiser": "adamw", "lr": 1e-4, "weight_decay": 0.1, "processes": 64, "warmup": 250, "batch": 64,
             "layer_decay": 0.7, "amp": True, "iterations": 184_375, "steps": [163_889, 177_546]},
        ),
    ],
)  # fmt: skip
def test_a_vit_protocols_training(name: str, expected: dict[str, Any]) -> None:
    """What Detectron2's config does not hold is here too: the optimiser, the decay of rates over layers."""
    assert to_dict(load_config(DetectionConfig, find_protocol(name)).solver) == {**COMMON, **expected}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "coco_maskrcnn_vit_s_selfpatch",
            {"short_sides": [800], "longest": 1333, "test_short_side": 800, "large_scale_jitter": None},
        ),
        ("coco_maskrcnn_vit_b_vitdet", {"longest": 1024, "test_short_side": 1024, "large_scale_jitter": 1024}),
    ],
)
def test_a_vit_protocols_images(name: str, expected: dict[str, Any]) -> None:
    data = to_dict(load_config(DetectionConfig, find_protocol(name)).data)
    assert {key: data[key] for key in expected} == expected
    assert data["source"] == "coco:data/coco"
