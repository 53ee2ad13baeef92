"""Semantic segmentation: a head trained on a backbone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from evaluate.common.description import Description
from evaluate.common.metrics import Metric

LABEL_MAPS = "label maps"
"""Kind of picture."""


class SegmentationProbe(Description):
    kind = "segmentation"
    door = "segment"
    metrics = (Metric("mIoU", "mIoU"),)
    class_metrics = (Metric("IoU", "IoU of each class"),)
    performance_keys = frozenset(
        {"data.root", "data.broken_share", "inference.batch", "log_every", "checkpoint_every", "schedule.processes"}
    )
    data_key = "data.root"
    pictures: ClassVar[Mapping[str, str]] = {LABEL_MAPS: "Label maps: image, truth, prediction"}
    memory_advice = "lower --batch, or set precision=bf16"
    position = 70

    def config_class(self) -> type[Any]:
        from evaluate.segmentation.protocol import SegmentConfig

        return SegmentConfig

    def for_processes(self, config: Any, world_size: int, arguments: Sequence[str]) -> Any:
        from evaluate.segmentation.engine.scaling import scale_to_batch

        parser = argparse.ArgumentParser(add_help=False)
        parser.add_argument("--batch", type=int)
        return scale_to_batch(config, parser.parse_known_args(arguments)[0].batch, world_size)[0]


PROBE = SegmentationProbe()

PERFORMANCE_KEYS = PROBE.performance_keys
"""Settings that change a location, speed or memory, but not the measurement."""
