"""The named detection protocols: Detectron2's resolved config, field by field, against recipes and model zoo."""

# Detectron2 is looked for before what imports it; its config's names look like constants.
# ruff: noqa: E402, SIM300

from __future__ import annotations

from typing import Any

import pytest
import torch

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from detectron2 import model_zoo

from converters.open import open_backbone
from core.config import load_config
from core.distributed import Processes
from core.errors import UserError
from evaluate.common.protocol import full_name
from evaluate.detection.model.detector import detectron2_config
from evaluate.detection.probe import PERFORMANCE_KEYS, find_protocol
from evaluate.detection.settings import DetectionConfig
from evaluate.detection.training.scaling import scale_to_processes, schedule_of
from tests.evaluate.segmentation.resolved_protocol import changed, flat, resolved

pytestmark = pytest.mark.usefixtures("no_weights")
FPN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
C4 = "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml"
VOC = "PascalVOC-Detection/faster_rcnn_R_50_C4.yaml"
EVERYWHERE = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "TEST.PRECISE_BN.ENABLED": True,
}
DENSECL = {
    "MODEL.FPN.NORM": "SyncBN",
    "MODEL.ROI_BOX_HEAD.NORM": "SyncBN",
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 4,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_MASK_HEAD.NORM": "SyncBN",
}
C4_EXTRA = {"MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm", "MODEL.RESNETS.NORM": "naiveSyncBN"}


@pytest.mark.parametrize(
    ("name", "stock", "classes", "changes"),
    [
        ("coco_maskrcnn_r50_fpn_1x_mulan", FPN, 80, {}),
        ("coco_maskrcnn_r50_fpn_1x_moco", FPN, 80, {"MODEL.FPN.NORM": "SyncBN"}),
        ("coco_maskrcnn_r50_fpn_1x_densecl", FPN, 80, DENSECL),
        ("coco_maskrcnn_r50_c4_1x", C4, 80, C4_EXTRA),
        (
            "coco_maskrcnn_r50_c4_2x",
            C4,
            80,
            {**C4_EXTRA, "SOLVER.MAX_ITER": 180_000, "SOLVER.STEPS": [120_000, 160_000]},
        ),
        ("voc_frcnn_r50_c4_24k", VOC, 20, {**C4_EXTRA, "SOLVER.MAX_ITER": 24_000, "SOLVER.STEPS": [18_000, 22_000]}),
    ],
)
def test_a_protocol_is_the_zoos_config_and_what_the_recipe_changes(
    name: str, stock: str, classes: int, changes: dict[str, Any]
) -> None:
    different = changed(resolved(name, "timm:resnet50", classes), model_zoo.get_config(stock))
    different = {key: value for key, value in different.items() if not key.startswith("MODEL.SSL.")}
    assert different == {**EVERYWHERE, **changes}


def test_the_recipes_own_numbers() -> None:
    """What the zoo and the recipes share, written out once."""
    cfg = resolved("coco_maskrcnn_r50_fpn_1x_mulan", "timm:resnet50", 80)
    assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (16, 0.02, 90_000)
    assert (cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WEIGHT_DECAY) == ((60_000, 80_000), 1000, 1e-4)
    assert cfg.INPUT.MIN_SIZE_TRAIN == (640, 672, 704, 736, 768, 800)
    assert cfg.TEST.PRECISE_BN.NUM_ITER == 200
    assert (cfg.MODEL.ROI_BOX_HEAD.NUM_CONV, cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.FPN.NORM) == (0, 2, "")
    voc = resolved("voc_frcnn_r50_c4_24k", "timm:resnet50", 20)
    assert (voc.SOLVER.WARMUP_ITERS, voc.INPUT.MIN_SIZE_TRAIN) == (100, tuple(range(480, 801, 32)))
    assert not voc.MODEL.MASK_ON


def test_smaller_resnets_take_detectron2s_widths() -> None:
    for name, depth in (("resnet18", 18), ("resnet34", 34)):
        cfg = resolved("coco_maskrcnn_r50_fpn_1x_mulan", f"timm:{name}", 80)
        assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS) == (depth, 64)


@pytest.mark.parametrize(("world", "device", "norm", "in_heads"), [
    (1, "cpu", "BN", "BN"), (2, "cpu", "naiveSyncBN", "naiveSyncBN_N"),
    (1, "cuda", "BN", "BN"), (2, "cuda", "SyncBN", "SyncBN"),
])  # fmt: skip
def test_what_synchronised_is_here(world: int, device: str, norm: str, in_heads: str) -> None:
    config = load_config(DetectionConfig, find_protocol("coco_maskrcnn_r50_fpn_1x_densecl"))
    cfg = detectron2_config(config, open_backbone("timm:resnet50"), 80, Processes(0, world, torch.device(device)))
    assert (cfg.MODEL.RESNETS.NORM, cfg.MODEL.FPN.NORM, cfg.MODEL.ROI_BOX_HEAD.NORM) == (norm, norm, in_heads)


# The linear rule


def test_batch_rate_and_steps_change_together() -> None:
    cfg = resolved("coco_maskrcnn_r50_fpn_1x_mulan", "timm:resnet50", 80, "solver.global_batch=4")
    solver = cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (4, 0.005, 360_000)
    assert (solver.STEPS, solver.WARMUP_ITERS) == ((240_000, 320_000), 4000)
    config = load_config(DetectionConfig, find_protocol("coco_maskrcnn_r50_fpn_1x_mulan"), ["solver.global_batch=4"])
    plan = str(schedule_of(config.solver))
    assert all(part in plan for part in ("360,000", "4 images", "0.005", "240,000, 320,000", "4,000")), plan
    same, printed = scale_to_processes(config, 8)
    assert same == config
    assert all(part in printed for part in ("16 -> 4", "× 0.25 = 0.005", "÷ 0.25 = 360,000", "4,000")), printed


MULAN, DENSECL = "coco_maskrcnn_r50_fpn_1x_mulan", "coco_maskrcnn_r50_fpn_1x_densecl"


@pytest.mark.parametrize(
    ("name", "overrides", "world", "batch", "suffix"),
    [
        (MULAN, [], 8, 16, ""),
        (MULAN, [], 16, 16, ""),
        (MULAN, [], 1, 4, " (modified: solver.global_batch=4)"),
        (MULAN, [], 2, 8, " (modified: solver.global_batch=8)"),
        (MULAN, [], 4, 16, ""),
        (DENSECL, [], 4, 8, " (modified: solver.global_batch=8)"),
        (MULAN, ["solver.global_batch=16"], 1, 16, ""),
        (MULAN, ["solver.global_batch=2"], 1, 2, " (modified: solver.global_batch=2)"),
        (MULAN, ["solver.processes=1"], 1, 16, ""),
        ("coco_maskrcnn_vit_b_vitdet", [], 8, 8, " (modified: solver.global_batch=8)"),
        ("scenes_maskrcnn_r18_fpn_300it", [], 1, 4, ""),
        ("scenes_maskrcnn_r18_fpn_300it", [], 2, 4, ""),
    ],
)
def test_fewer_processes_keep_their_share_of_the_batch_and_the_name_shows_it(
    name: str, overrides: list[str], world: int, batch: int, suffix: str
) -> None:
    file = find_protocol(name)
    config, printed = scale_to_processes(load_config(DetectionConfig, file, overrides), world)
    assert schedule_of(config.solver).batch == batch
    assert full_name(config, file, PERFORMANCE_KEYS) == name + suffix
    assert bool(printed) == bool(suffix)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_fewer_processes_are_what_detectron2_makes_of_its_reference_world_size(world: int) -> None:
    from detectron2.engine import DefaultTrainer

    given = ["solver.global_batch=16"]
    theirs = resolved(DENSECL, "timm:resnet50", 80, *given)
    theirs.SOLVER.REFERENCE_WORLD_SIZE = 8
    theirs = DefaultTrainer.auto_scale_workers(theirs, world).SOLVER
    config, printed = scale_to_processes(load_config(DetectionConfig, find_protocol(DENSECL)), world)
    ours = schedule_of(config.solver)
    assert (ours.batch, ours.lr, ours.iterations) == (theirs.IMS_PER_BATCH, theirs.BASE_LR, theirs.MAX_ITER)
    assert (ours.steps, ours.warmup) == (theirs.STEPS, theirs.WARMUP_ITERS)
    processes = "1 process" if world == 1 else f"{world} processes"
    assert f"16 -> {2 * world} ({processes} " in printed


def test_twice_the_schedule_is_2x() -> None:
    one = resolved("coco_maskrcnn_r50_c4_1x", "timm:resnet50", 80, "solver.schedule=2")
    two = resolved("coco_maskrcnn_r50_c4_2x", "timm:resnet50", 80)
    assert flat(one) == flat(two)


# What is refused


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.source=folder:x", r"source .*scenes, coco:FOLDER, voc:FOLDER.*'folder:x'"),
        ("data.source=voc:x", r"detector\.masks\b.*false"),
        ("detector.norm=LN", r"\bLN\b"),
        ("detector.norm=''", r"\bnorm\b.*\bBN or SyncBN"),
        ("detector.extra_norm=true", "extra_norm.*resnet_c4"),
        ("detector.anchors=[32]", "five"),
        ("solver.steps=[100000]", "steps.*90,?000"),
        ("solver.layer_decay=0.7", "layer_decay.*adamw"),
        ("solver.batch=10", "batch 10.*processes 4"),
        ("detector.drop_path=0.1", r"drop_path.*0\.1"),
    ],
)
def test_impossible_settings_are_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(DetectionConfig, find_protocol("coco_maskrcnn_r50_fpn_1x_mulan"), [override])


def test_an_unknown_protocol_is_answered_with_the_known() -> None:
    with pytest.raises(UserError, match=r"coco_maskrcnn_r50_fpn_1x_moko.*coco_maskrcnn_r50_fpn_1x_moco\b"):
        find_protocol("coco_maskrcnn_r50_fpn_1x_moko")
    with pytest.raises(UserError, match="voc_frcnn_r50_c4_24k"):
        find_protocol("voc_frcnn")


@pytest.mark.parametrize(
    ("data", "protocol"),
    [
        (None, "scenes_maskrcnn_r18_fpn_300it"),
        ("scenes", "scenes_maskrcnn_r18_fpn_300it"),
        ("coco:/data/coco", "coco_maskrcnn_r50_fpn_1x_mulan"),
        ("voc:/data/voc", "voc_frcnn_r50_c4_24k"),
    ],
)
def test_the_protocol_follows_the_data_where_none_is_named(data: str | None, protocol: str) -> None:
    from evaluate.detection.run import _default_protocol

    assert _default_protocol(data) == protocol
