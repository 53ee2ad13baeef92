"""A trained detector on corrupted test images: one result for each corruption."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from core.config import to_dict
from core.result import Result
from evaluate.common.context import RunContext
from evaluate.detection.metrics.inference import run_inference
from evaluate.detection.outcome import count_metrics, data_part, metrics_table
from evaluate.probes.ood.corrupted import Cell, write_corrupted


def measure_corrupted(setup: Any, context: RunContext, broken_train: list[str], cells: Sequence[Cell]) -> None:
    """Measures the run's detector under each corruption, prints and writes the results; all processes together."""
    config, train, val = setup.config, setup.train, setup.val
    for cell in cells:
        started = time.time()
        detections = run_inference(setup.cfg, setup.detector, val, context, config.data.broken_share, cell)
        metrics = count_metrics(config, val, detections)
        if detections is None:
            continue
        result = Result(
            protocol=setup.protocol,
            metrics=metrics,
            backbone=setup.backbone,
            data={"train": data_part(train, broken_train), "val": data_part(val, detections.broken)},
            seed=context.seed,
            settings=to_dict(config) | {"scaling": setup.scaling, "processes": context.processes.world_size},
            started=started,
            device=context.device,
        )
        write_corrupted(setup.folder, cell, result, metrics_table(metrics))
