"""A detection protocol as Detectron2 gets it: its CfgNode, its transforms, its optimizer's groups, its schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from core.compute.shapes import shapes_only
from core.config import load_config
from core.distributed import Processes
from evaluate.tables.facts import FactSheet
from tests.protocols.parameters import flat, group_values, meta_backbone, steps_described

CLASSES = {"voc": 20, "coco": 80}


def resolve(name: str, sheet: FactSheet, steps: Sequence[int], overrides: Sequence[str]) -> dict[str, Any]:
    """All settings; `schedule` holds the learning rate at each of `steps`."""
    from detectron2.modeling import build_model

    from core.backbones.class_token import without_class_token
    from evaluate.detection.data.loaders import _mapper
    from evaluate.detection.model.detector import detectron2_config
    from evaluate.detection.probe import find_protocol
    from evaluate.detection.settings import DetectionConfig
    from evaluate.detection.training.optimiser import build
    from evaluate.detection.training.scaling import scale_to_processes

    config = load_config(DetectionConfig, find_protocol(name), overrides)
    meant = config.solver.processes
    config, _ = scale_to_processes(config, sheet.processes)
    backbone = meta_backbone(sheet.backbone)
    with shapes_only():
        if not config.detector.class_token:
            backbone = without_class_token(backbone)
    gpus = Processes(0, sheet.processes, torch.device("cuda", 0))
    cfg = detectron2_config(config, backbone, CLASSES[config.data.kind], gpus)
    train = _mapper(cfg, config.data.large_scale_jitter).augmentations.augs
    cfg.MODEL.DEVICE = "meta"
    with shapes_only():
        detector = build_model(cfg)
    optimizer, scheduler = build(cfg, config, detector)
    values = flat(cfg) | steps_described(train, "train")
    values |= group_values(detector, optimizer, cfg.SOLVER.BASE_LR, r"proposal_generator|roi_heads|backbone\.fpn")
    rates = {}
    for step in steps:
        scheduler.last_epoch = step
        rates[str(step)] = max(scheduler.get_lr())
    return values | {"schedule": rates, "processes": meant, "class_token": config.detector.class_token}
