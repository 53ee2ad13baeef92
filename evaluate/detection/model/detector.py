"""Builds the detector of a protocol: Detectron2's config, the model, and the backbone's weights in it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import nn

import evaluate.detection.model.detectron2_layers
import evaluate.detection.model.stages
import evaluate.detection.model.vit  # noqa: F401
from converters.engines.dense_maps import freeze
from core.backbones import Backbone
from core.coverage import Coverage
from core.distributed import Processes
from core.errors import UserError
from evaluate.detection.model.designs import design_named
from evaluate.detection.model.designs.base import PARTS, Design, describe_for_builder
from evaluate.detection.model.detectron2_layers import norm_here
from evaluate.detection.settings import DetectionConfig, DetectorConfig
from evaluate.detection.training.scaling import schedule_of

_LEVELS = ["p2", "p3", "p4", "p5", "p6"]


def detectron2_config(config: DetectionConfig, backbone: Backbone, classes: int, processes: Processes) -> CfgNode:
    """Detectron2's config for a protocol; it names no data sets."""
    cfg = get_cfg()
    model, detector = cfg.MODEL, config.detector
    cfg.INPUT.FORMAT = "RGB"
    model.PIXEL_MEAN = [round(255 * value, 4) for value in backbone.config.mean]
    model.PIXEL_STD = [round(255 * value, 4) for value in backbone.config.std]
    model.WEIGHTS, model.MASK_ON, model.DEVICE = "", detector.masks, str(processes.device)
    model.BACKBONE.FREEZE_AT = detector.freeze_at
    _set_input(cfg, config)
    _set_solver(cfg, config)
    _set_backbone(cfg, config, backbone, processes)
    model.ROI_HEADS.NUM_CLASSES = classes
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = detector.rois
    rpn = model.RPN
    rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST, rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST = detector.proposals
    rpn.CONV_DIMS = [-1] * detector.rpn_convs
    if design_named(detector.design).pyramid:
        _set_pyramid_heads(cfg, config, processes)
    else:
        model.ROI_HEADS.NAME = "Res5ROIHeadsExtraNorm" if detector.extra_norm else "Res5ROIHeads"
        model.ANCHOR_GENERATOR.SIZES = [list(detector.anchors)]
    return cfg


def _set_input(cfg: CfgNode, config: DetectionConfig) -> None:
    data = config.data
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = data.short_sides, data.longest
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = data.test_short_side, data.longest
    # Under jitter objects are cropped, and their boxes drawn anew around what is left of their masks.
    cfg.INPUT.MASK_FORMAT = "bitmask" if data.large_scale_jitter else data.mask_format


def _set_solver(cfg: CfgNode, config: DetectionConfig) -> None:
    solver, schedule = config.solver, schedule_of(config.solver)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR = schedule.batch, schedule.lr
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = schedule.iterations, schedule.steps
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WEIGHT_DECAY = schedule.warmup, solver.weight_decay
    cfg.SOLVER.AMP.ENABLED = solver.amp
    cfg.TEST.PRECISE_BN.ENABLED, cfg.TEST.PRECISE_BN.NUM_ITER = solver.precise_bn > 0, solver.precise_bn


def _set_backbone(cfg: CfgNode, config: DetectionConfig, backbone: Backbone, processes: Processes) -> None:
    detector = config.detector
    # Arguments with which our builders make the same network again.
    cfg.MODEL.SSL = CfgNode(
        {
            "NAME": backbone.config.name,
            "CONFIG": describe_for_builder(backbone),
            "TAPS": list(detector.taps),
            "NORM": norm_here(detector.norm, processes),
            "DROP_PATH": detector.drop_path,
            "SQUARE": config.data.large_scale_jitter or 0,
        }
    )
    design_named(detector.design).set_backbone(cfg, config, backbone)


def _set_pyramid_heads(cfg: CfgNode, config: DetectionConfig, processes: Processes) -> None:
    model, detector = cfg.MODEL, config.detector
    model.FPN.IN_FEATURES, model.FPN.OUT_CHANNELS = list(PARTS), detector.pyramid_width
    model.FPN.NORM = norm_here(detector.pyramid_norm, processes)
    model.ANCHOR_GENERATOR.SIZES = [[side] for side in detector.anchors]
    model.RPN.IN_FEATURES = _LEVELS
    model.ROI_HEADS.NAME, model.ROI_HEADS.IN_FEATURES = "StandardROIHeads", _LEVELS[:4]
    box, mask = model.ROI_BOX_HEAD, model.ROI_MASK_HEAD
    norm = norm_here(detector.head_norm, processes, heads=True)
    own = norm == "LN"  # Detectron2's builders know no layer norm
    box.NAME = "build_box_head_of_any_norm" if own else "FastRCNNConvFCHead"
    box.NUM_CONV, box.NUM_FC, box.FC_DIM = detector.box_convs, detector.box_fcs, detector.box_width
    box.CONV_DIM = min(256, detector.pyramid_width)
    box.POOLER_RESOLUTION, mask.POOLER_RESOLUTION = 7, 14
    mask.NAME = "build_mask_head_of_any_norm" if own else "MaskRCNNConvUpsampleHead"
    mask.NUM_CONV, mask.CONV_DIM = detector.mask_convs, detector.mask_width
    box.NORM = mask.NORM = norm


def build_detector(cfg: CfgNode, config: DetectorConfig, backbone: Backbone, seed: int) -> tuple[nn.Module, Coverage]:
    """Detector on its device, heads random from `seed`, with every tensor of the backbone loaded.

    Raises `UserError` unless the backbone is covered completely, in both directions.
    """
    design = design_named(config.design)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = build_model(cfg)
    coverage = load_backbone(detector, backbone, design)
    if config.frozen:
        freeze(design.parts(detector), inside=detector.backbone)
    return detector, coverage


def load_backbone(detector: nn.Module, backbone: Backbone, design: Design) -> Coverage:
    """Copies the backbone's tensors into the detector and returns the coverage. Reads no file."""
    own: Mapping[str, torch.Tensor] = detector.state_dict()
    state = backbone.model.state_dict()
    places = {name: next((place for place in design.places(name) if place in own), None) for name in state}
    taken = set(places.values())
    matched, misshaped = [], []
    for name, tensor in state.items():
        place = places[name]
        if place is None:
            continue
        if own[place].shape == tensor.shape:
            matched.append(name)
        else:
            misshaped.append(f"{name}: {list(tensor.shape)}, not {list(own[place].shape)}")
    coverage = Coverage(
        matched=tuple(matched),
        # Tensors of the detector that belong to the backbone, whether or not one of its own is loaded there.
        missing=tuple(name for name in own if design.owns(name) and name not in taken),
        unexpected=tuple(name for name, place in places.items() if place is None),
        misshaped=tuple(misshaped),
    )
    if not coverage.complete:
        raise UserError(f"{backbone.source} does not cover the detector's backbone: {coverage.summary()}")
    with torch.no_grad():
        for name, tensor in state.items():
            own[str(places[name])].copy_(tensor)
    return coverage
