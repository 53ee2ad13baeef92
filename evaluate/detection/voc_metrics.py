"""Pascal VOC's average precision as Detectron2 counts it: 2007's eleven points, thresholds 0.5 … 0.95."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances

from evaluate.detection.inference import Findings
from evaluate.detection.records import DetectionSet


def voc_metrics(split: DetectionSet, findings: Findings | None) -> dict[str, Any]:
    """`box_ap`, `box_ap50`, `box_ap75` in percent, on the first rank.

    All ranks call it, as Detectron2's evaluator gathers from them; `findings` are those of all ranks on the first, and
    None on the others, which get an empty answer.
    """
    name = f"ssl-transfer voc metrics {split.truth}"
    MetadataCatalog.get(name).set(dirname=str(split.truth), split="test", year=2007, thing_classes=list(split.classes))
    evaluator = PascalVOCDetectionEvaluator(name)
    evaluator.reset()
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for entry in findings.objects if findings is not None else ():
        by_image.setdefault(entry["image_id"], []).append(entry)
    for image, entries in by_image.items():
        instances = Instances((0, 0))
        boxes = torch.tensor([entry["bbox"] for entry in entries])
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.tensor([entry["score"] for entry in entries])
        instances.pred_classes = torch.tensor([entry["category_id"] for entry in entries])
        evaluator.process([{"image_id": image}], [{"instances": instances}])
    numbers = evaluator.evaluate() or {"bbox": {}}
    return {f"box_{key.lower()}": round(float(value), 4) for key, value in numbers["bbox"].items()}
