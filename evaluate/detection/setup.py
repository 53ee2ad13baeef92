"""Preparation of a detection run: protocol, backbone, data and detector, all checked before the first step."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from detectron2.config import CfgNode
from torch import nn

from core.backbones import Backbone, check_rgb
from core.backbones.class_token import without_class_token
from core.checkpoints import backbone_digest
from core.coverage import Coverage
from core.distributed import rank_zero_first
from evaluate.common.context import RunContext
from evaluate.common.opening import open_named
from evaluate.common.protocol import full_name, result_folder
from evaluate.detection.data.datasets import open_splits
from evaluate.detection.data.records import DetectionSet
from evaluate.detection.model.detector import build_detector, detectron2_config
from evaluate.detection.model.fit import check_fit
from evaluate.detection.probe import PERFORMANCE_KEYS
from evaluate.detection.settings import DetectionConfig
from evaluate.detection.training import loop
from evaluate.detection.training.scaling import scale_to_processes


@dataclass(frozen=True)
class Setup:
    """A detection run that is ready to start."""

    protocol: str
    """Full name, with the settings that were changed."""
    config: DetectionConfig
    """Protocol, scaled to the number of processes."""
    scaling: str
    """Sentence about how it was scaled; empty if it wasn't."""
    backbone: Backbone
    """Backbone under test."""
    digest: str
    """sha256 (hex) of its weights."""
    coverage: Coverage
    """Match of its tensors with the detector's."""
    train: DetectionSet
    """Training split."""
    val: DetectionSet
    """Test split."""
    cfg: CfgNode
    """Detectron2's config."""
    detector: nn.Module
    """Detector on its device, with the backbone's weights."""
    folder: Path
    """Receives result.json."""


def prepare(arguments: argparse.Namespace, config: DetectionConfig, file: Path, context: RunContext) -> Setup:
    """Opens and checks everything that the run needs; `file` is the protocol's YAML.

    Raises `UserError` for a backbone, data set or number of processes that does not fit.
    """
    processes = context.processes
    config, scaling = scale_to_processes(config, processes.world_size)
    protocol = full_name(config, file, PERFORMANCE_KEYS)
    loop.join_detectron2(processes)
    loop.check_hardware(config, processes)
    with rank_zero_first():
        backbone = open_named(arguments, context.seed)
        check_rgb(backbone)
        check_fit(config, backbone)
        train, val = open_splits(config)
    built = backbone if config.detector.class_token else without_class_token(backbone)
    cfg = detectron2_config(config, built, len(train.classes), processes)
    detector, coverage = build_detector(cfg, config.detector, built, context.seed)
    digest = backbone_digest(backbone)
    folder = arguments.out or result_folder(protocol, digest, context.seed, version=config.protocol_version)
    return Setup(protocol, config, scaling, backbone, digest, coverage, train, val, cfg, detector, folder)
