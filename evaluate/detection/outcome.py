"""The outcome of a detection run: metrics, their table, and the data part of result.json."""

from __future__ import annotations

from typing import Any

from evaluate.detection.data.records import DetectionSet
from evaluate.detection.metrics.coco_metrics import coco_metrics, engine
from evaluate.detection.metrics.inference import Detections
from evaluate.detection.metrics.voc_metrics import voc_metrics
from evaluate.detection.settings import DetectionConfig

_LISTED = 20
_COLUMNS = {"ap": "AP", "ap50": "50", "ap75": "75", "ap_small": "small", "ap_medium": "medium", "ap_large": "large"}


def count_metrics(config: DetectionConfig, val: DetectionSet, detections: Detections | None) -> dict[str, Any]:
    """Metrics by the data set's own rules. All ranks call it; only the first, which has `detections`, uses them."""
    if config.data.kind == "voc":
        return voc_metrics(val, detections)
    if detections is None:
        return {}
    return {**coco_metrics(val, detections, config.detector.masks), "counted_by": engine()}


def data_part(split: DetectionSet, broken: list[str]) -> dict[str, Any]:
    """Entry of one split in result.json."""
    return {
        "name": split.name,
        "images": len(split.records),
        "classes": len(split.classes),
        "digest": split.digest,
        "broken": [*split.excluded, *broken],
        "account": split.account.to_json(),
    }


def excluded_text(train: DetectionSet, broken_train: list[str], val: DetectionSet, broken_val: list[str]) -> list[str]:
    """One line per split that excludes images or objects, with the first of them."""
    lines = []
    for part, names in (("training", (*train.excluded, *broken_train)), ("test", (*val.excluded, *broken_val))):
        if names:
            more = "; …" if len(names) > _LISTED else ""
            lines.append(f"{len(names)} excluded from {part}: {'; '.join(names[:_LISTED])}{more}")
    return lines


def metrics_table(metrics: dict[str, Any]) -> str:
    """Average precisions of boxes and masks, overall and per class, in percent."""
    lines = []
    for kind in ("box", "mask"):
        shown = [
            f"{title} {_number(metrics[f'{kind}_{key}'])}"
            for key, title in _COLUMNS.items()
            if f"{kind}_{key}" in metrics
        ]
        if shown:
            lines.append(f"{kind:4s}  " + "   ".join(shown))
        for name, value in metrics.get(f"{kind}_ap_per_class", {}).items():
            lines.append(f"      {name:20s} {_number(value)}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
