"""What an evaluation of a suite comes to: the protocol's name as so many processes run it, and what it asks for."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from evaluate.suites.config import Evaluation


@dataclass(frozen=True)
class Measurement:
    """What an evaluation's protocol comes to with its settings, data and number of processes."""

    protocol: str
    """The full name that results carry."""
    place: str
    """Where the data is."""
    drawn: bool
    """Whether the seed decides something although the weights are given."""
    takes_pixels: bool
    """Whether raw pixels can be measured by it."""


def measurement_of(evaluation: Evaluation, processes: int) -> Measurement:
    """`UserError` for settings that the protocol doesn't have."""
    from core.config import load_config
    from evaluate.common.protocol import full_name, protocol_file
    from evaluate.detection import settings as detection
    from evaluate.detection.training.scaling import scale_to_processes
    from evaluate.probes.finetune.protocol import PERFORMANCE_KEYS as OF_FINETUNE
    from evaluate.probes.finetune.protocol import FinetuneConfig
    from evaluate.probes.knn.protocol import PERFORMANCE_KEYS as OF_KNN
    from evaluate.probes.knn.protocol import KnnConfig
    from evaluate.probes.linear.protocol import PERFORMANCE_KEYS as OF_LINEAR
    from evaluate.probes.linear.protocol import LinearConfig
    from evaluate.probes.logreg.protocol import PERFORMANCE_KEYS as OF_LOGREG
    from evaluate.probes.logreg.protocol import LogregConfig
    from evaluate.probes.transfer.protocol import PERFORMANCE_KEYS as OF_TRANSFER
    from evaluate.probes.transfer.protocol import TransferConfig
    from evaluate.segmentation import protocol as segmentation
    from evaluate.segmentation.engine.scaling import scale_to_batch

    kinds: dict[str, tuple[type, Collection[str], tuple[str, ...]]] = {
        "knn": (KnnConfig, OF_KNN, ("knn",)),
        "linear": (LinearConfig, OF_LINEAR, ("linear",)),
        "logreg": (LogregConfig, OF_LOGREG, ("logreg",)),
        "finetune": (FinetuneConfig, OF_FINETUNE, ("finetune",)),
        "transfer_sets": (TransferConfig, OF_TRANSFER | {"sets"}, ("transfer",)),
        "coco": (detection.DetectionConfig, detection.PERFORMANCE_KEYS, ()),
        "segment": (segmentation.SegmentConfig, segmentation.PERFORMANCE_KEYS, segmentation.KINDS),
    }
    kind, neutral, families = kinds[evaluation.run]
    name = evaluation.protocol
    file = detection.find_protocol(name) if evaluation.run == "coco" else protocol_file(name, *families)
    key = {"segment": "data.root", "transfer_sets": "sets"}.get(evaluation.run, "data.source")
    value = json.dumps(evaluation.data.split(",")) if key == "sets" else evaluation.data
    overrides = [*evaluation.settings, *([f"{key}={value}"] if evaluation.data else [])]
    config: Any = load_config(kind, file, overrides)
    # The name tells a dense protocol's batch, which follows from the number of processes.
    if evaluation.run == "coco":
        config, _ = scale_to_processes(config, processes)
    elif evaluation.run == "segment":
        config, _ = scale_to_batch(config, _batch(evaluation), processes)
    place = ",".join(config.sets) if key == "sets" else config.data.root if key == "data.root" else config.data.source
    drawn = evaluation.run != "knn" or config.shots is not None or config.data.limit is not None
    return Measurement(full_name(config, file, neutral), place, drawn, _takes_pixels(evaluation, config))


def _batch(evaluation: Evaluation) -> int | None:
    """What `--batch` says among the evaluation's arguments."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--batch", type=int)
    batch: int | None = parser.parse_known_args(evaluation.arguments)[0].batch
    return batch


def _takes_pixels(evaluation: Evaluation, config: Any) -> bool:
    """Raw pixels have one vector per image, so protocols that take several blocks or tokens have nothing to take."""
    if evaluation.run == "transfer_sets":
        return bool(config.blocks == 1 and config.pooling == "auto")
    if evaluation.run == "linear":
        return tuple(config.blocks) == (1,) and tuple(config.poolings) == ("auto",)
    return evaluation.run == "knn"
