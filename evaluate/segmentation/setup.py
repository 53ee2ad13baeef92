"""Everything that a run opens before its data is checked: protocol, backbone, data set, engine settings, model."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from core.backbones import Backbone, check_rgb, check_weights
from core.checkpoints import backbone_digest
from core.config import load_config, to_dict
from core.distributed import init_distributed, rank_zero_first
from evaluate.common.context import RunContext
from evaluate.common.opening import open_named
from evaluate.common.protocol import flat, full_name, is_label, protocol_file, result_folder
from evaluate.segmentation.data.class_names import class_names
from evaluate.segmentation.data.layouts import Samples, find_root, list_split
from evaluate.segmentation.engine.engine_settings import engine_settings
from evaluate.segmentation.engine.run_state import ENGINE_FOLDER
from evaluate.segmentation.engine.scaling import batch_per_process, scale_to_batch
from evaluate.segmentation.model.segmentor import build_segmentor
from evaluate.segmentation.probe import PERFORMANCE_KEYS, PROBE
from evaluate.segmentation.protocol import SegmentConfig


@dataclass(frozen=True)
class Setup:
    """An opened run, equal on all processes."""

    config: SegmentConfig
    """Settings at the batch of this run."""
    scaling: str
    """Sentence about the scaling to this batch; empty if there is none."""
    protocol: str
    """Full name of the protocol, with its modifications."""
    context: RunContext
    """Processes, loader workers, seed."""
    backbone: Backbone
    """The measured backbone."""
    digest: str
    """sha256 of the backbone's tensors."""
    root: Path
    """Folder of the data set."""
    names: tuple[str, ...]
    """Class names."""
    samples: dict[str, Samples]
    """Images and labels of `train` and `val`."""
    out: Path
    """Folder of the result."""
    engine: dict[str, Any]
    """Settings of the engine."""
    model: nn.Module
    """The untrained segmentor with the backbone's weights."""
    loaded: str
    """Report of the loaded tensors."""

    @property
    def measured(self) -> dict[str, Any]:
        """Settings by full key that are equal for comparable runs."""
        return measured_settings(self.config) | {"processes": self.context.processes.world_size}


def open_setup(arguments: argparse.Namespace) -> Setup:
    """Opens a run. Raises `UserError`. Needs MMSegmentation (`import_mmseg`)."""
    file = arguments.config or protocol_file(arguments.protocol, PROBE.kind)
    config = load_config(SegmentConfig, file, arguments.overrides)
    context = RunContext(init_distributed(arguments.device), arguments.workers, arguments.seed)
    world = context.processes.world_size
    config, scaling = scale_to_batch(config, arguments.batch, world)
    protocol = full_name(config, file, PERFORMANCE_KEYS)
    batch_per_process(config.batch, world)
    with rank_zero_first():
        backbone = open_named(arguments, arguments.seed)
        check_weights(backbone, "build a segmentor on")
        check_rgb(backbone)
        root = find_root(config.data)
    samples = {split: list_split(root, config.data.layout, split) for split in ("train", "val")}
    names = class_names(root, config.data)
    digest = backbone_digest(backbone)
    out = arguments.out or result_folder(protocol, digest, arguments.seed, version=config.protocol_version)
    engine = engine_settings(config, backbone, root, names, context, out / ENGINE_FOLDER)
    model, loaded = build_segmentor(config, engine["model"], backbone, context)
    return Setup(
        config, scaling, protocol, context, backbone, digest, root, names, samples, out, engine, model, loaded
    )  # fmt: skip


def measured_settings(config: SegmentConfig) -> dict[str, Any]:
    """Settings by full key (`optim.lr`) without neutral ones; equal for comparable runs."""

    def ignored(key: str) -> bool:
        return key in PERFORMANCE_KEYS or (is_label(key) and key != "name")

    return {key: value for key, value in flat(to_dict(config)).items() if not ignored(key)}
