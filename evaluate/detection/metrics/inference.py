"""Detections on test images, computed by all ranks and gathered on the first."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.utils import comm
from torch import nn

from core.data.broken import BrokenImages
from evaluate.common.context import RunContext
from evaluate.detection.data.loaders import test_images
from evaluate.detection.data.records import DetectionSet
from evaluate.probes.ood.corrupted import Cell


@dataclass(frozen=True)
class Detections:
    """Detections on all test images."""

    objects: list[dict[str, Any]]
    """COCO's result entries: image_id, category_id (counted from 0), bbox (left, top, width, height), score and, with
    masks, segmentation."""
    images: list[Any]
    """Ids of the decoded images."""
    broken: list[str]
    """Undecodable images, each with the reason."""


def run_inference(
    cfg: CfgNode, detector: nn.Module, split: DetectionSet, context: RunContext, share: float, cell: Cell | None = None
) -> Detections | None:
    """Runs the detector over the split; returns the detections of all ranks on the first, None on the others.

    `cell`: corruption and severity of the images.

    Raises `UserError` if more than `share` of the images are broken.
    """
    loader = test_images(cfg, split.records, context.workers, cell)
    objects: list[dict[str, Any]] = []
    images, broken = [], []
    was_training = detector.training
    detector.eval()
    start = reported = time.monotonic()
    with torch.no_grad():
        for number, batch in enumerate(loader, start=1):
            if "broken" in batch[0]:
                broken.append(batch[0]["broken"])
                continue
            instances = detector(batch)[0]["instances"].to("cpu")
            images.append(batch[0]["image_id"])
            objects += instances_to_coco_json(instances, batch[0]["image_id"])
            now = time.monotonic()
            if context.is_main and now - reported > 10:
                reported, left = now, int((now - start) / number * (len(loader) - number))
                print(f"test image {number}/{len(loader)}  eta {left // 60}:{left % 60:02d}", flush=True)
    detector.train(was_training)
    gathered = comm.gather((objects, images, broken), dst=0)
    if not context.is_main:
        return None
    account = BrokenImages(len(split.records), share)
    account.add(name for _, _, names in gathered for name in names)
    return Detections(
        [o for part, _, _ in gathered for o in part], [i for _, part, _ in gathered for i in part], account.names
    )
