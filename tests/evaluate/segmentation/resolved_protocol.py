"""A detection protocol's config as Detectron2 gets it on eight GPUs, flat, and what in it differs from the zoo's."""

from __future__ import annotations

from typing import Any

import torch

from converters.open import open_backbone
from core.config import load_config
from core.distributed import Processes
from evaluate.detection.model.detector import detectron2_config
from evaluate.detection.model.fit import check_fit
from evaluate.detection.probe import find_protocol
from evaluate.detection.settings import DetectionConfig

GPUS = Processes(0, 8, torch.device("cuda", 0))
# Of no meaning here: the backbone in full, where data, weights and devices are.
ELSEWHERE = ("DATASETS.", "MODEL.SSL.CONFIG", "MODEL.WEIGHTS", "MODEL.DEVICE", "VERSION", "OUTPUT_DIR")


def resolved(name: str, ckpt: str, classes: int, *overrides: str) -> Any:
    config = load_config(DetectionConfig, find_protocol(name), overrides)
    backbone = open_backbone(ckpt)
    check_fit(config, backbone)
    return detectron2_config(config, backbone, classes, GPUS)


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[prefix + key] = list(value) if isinstance(value, tuple) else value
    return values


def changed(ours: Any, zoo: Any) -> dict[str, Any]:
    """Every value of ours that the zoo's config has not; all keys of the zoo's are there."""
    mine, theirs = flat(ours), flat(zoo)
    assert theirs.keys() <= mine.keys()
    return {key: value for key, value in mine.items() if value != theirs.get(key) and not key.startswith(ELSEWHERE)}
