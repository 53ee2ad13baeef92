"""COCO's average precision of boxes and masks, by faster-coco-eval where it is installed, else by pycocotools."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
from typing import Any

import numpy as np

from evaluate.detection.data.records import DetectionSet
from evaluate.detection.metrics.inference import Detections

NUMBERS = (
    "ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
    "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip


def engine() -> str:
    """Name of the COCO evaluation library in use."""
    return "faster-coco-eval" if importlib.util.find_spec("faster_coco_eval") is not None else "pycocotools"


def coco_metrics(split: DetectionSet, detections: Detections, masks: bool, by: str = "") -> dict[str, Any]:
    """`box_ap` … `box_ar_large` and, with `masks`, `mask_ap` … in percent, and `box_ap_per_class`; None for a size or
    class without objects. Without any detection every number that exists is 0.

    `by`: `faster-coco-eval` or `pycocotools`; by default `engine()`. Undecodable images don't count.
    """
    metrics: dict[str, Any] = {}
    for kind, name in (("bbox", "box"), ("segm", "mask")) if masks else (("bbox", "box"),):
        numbers, per_class = _evaluate(split, detections, kind, by or engine())
        metrics |= {f"{name}_{key}": _percent(value) for key, value in zip(NUMBERS, numbers, strict=True)}
        metrics[f"{name}_ap_per_class"] = dict(zip(split.classes, map(_percent, per_class), strict=True))
    return metrics


def _evaluate(split: DetectionSet, detections: Detections, kind: str, by: str) -> tuple[list[float], list[float]]:
    """The twelve numbers and the average precision of each class; shares, −1 if there is no object."""
    truth_type, evaluation = _types(by)
    # The area of a detection, small to large, is its mask's in the evaluation of masks: a box would take its place.
    other = "bbox" if kind == "segm" else "segmentation"
    found = [
        {key: value for key, value in entry.items() if key != other}
        | {"category_id": split.category_ids[entry["category_id"]]}
        for entry in detections.objects
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = truth_type()
        # A copy, because both libraries put masks in their own form into it.
        truth.dataset = {**split.truth, "annotations": [dict(one) for one in split.truth["annotations"]]}
        truth.createIndex()
        if found:
            results = truth.loadRes(found)
        else:  # neither library takes an empty list
            results = truth_type()
            results.dataset = {**split.truth, "annotations": []}
            results.createIndex()
        counted = evaluation(truth, results, kind)
        counted.params.imgIds = sorted(detections.images)
        counted.params.catIds = list(split.category_ids)
        counted.evaluate()
        counted.accumulate()
        counted.summarize()
    # Precision by threshold, recall, class, area (all), most detections per image (100); as in COCO's own summary.
    precision = np.asarray(counted.eval["precision"])[:, :, :, 0, -1]
    per_class = [
        float(column[column > -1].mean()) if (column > -1).any() else -1.0 for column in precision.transpose(2, 0, 1)
    ]
    return [float(value) for value in counted.stats[:12]], per_class


def _types(by: str) -> tuple[Any, Any]:
    if by == "faster-coco-eval":
        from faster_coco_eval import COCO, COCOeval_faster

        return COCO, COCOeval_faster
    from pycocotools.coco import COCO as COCO_
    from pycocotools.cocoeval import COCOeval

    return COCO_, COCOeval


def _percent(share: float) -> float | None:
    return None if share < 0 or math.isnan(share) else round(100 * share, 4)
