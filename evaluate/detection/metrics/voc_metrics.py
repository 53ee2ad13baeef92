"""Pascal VOC's average precision as Detectron2 counts it: 2007's eleven points, thresholds 0.5 … 0.95."""

from __future__ import annotations

import math
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.structures import Boxes, Instances

from evaluate.detection.data.records import DetectionSet
from evaluate.detection.data.voc_data import VocObject
from evaluate.detection.metrics.inference import Detections


def voc_metrics(split: DetectionSet, detections: Detections | None) -> dict[str, Any]:
    """`box_ap`, `box_ap50`, `box_ap75` in percent, on the first rank; None if no object counts.

    All ranks call it, because Detectron2's evaluator gathers from them. `detections` are those of all ranks on the
    first, and None on the others, whose numbers mean nothing. Undecodable images don't count.
    """
    with tempfile.TemporaryDirectory() as folder:
        # The evaluator reads VOC's folders. These hold what was read and checked before the training, and no more.
        truth: dict[str, list[VocObject]] = split.truth
        images = detections.images if detections is not None else []
        _write_voc(Path(folder), {image: truth[image] for image in images})
        name = f"ssl-transfer voc metrics {folder}"
        MetadataCatalog.get(name).set(dirname=folder, split="test", year=2007, thing_classes=list(split.classes))
        evaluator = PascalVOCDetectionEvaluator(name)
        evaluator.reset()
        by_image: dict[Any, list[dict[str, Any]]] = {}
        for entry in detections.objects if detections is not None else ():
            by_image.setdefault(entry["image_id"], []).append(entry)
        for image, entries in by_image.items():
            instances = Instances((0, 0))
            boxes = torch.tensor([entry["bbox"] for entry in entries])
            boxes[:, 2:] += boxes[:, :2]
            instances.pred_boxes = Boxes(boxes)
            instances.scores = torch.tensor([entry["score"] for entry in entries])
            instances.pred_classes = torch.tensor([entry["category_id"] for entry in entries])
            evaluator.process([{"image_id": image}], [{"instances": instances}])
        with np.errstate(divide="ignore", invalid="ignore"):  # recall of a class without an object
            numbers = evaluator.evaluate() or {"bbox": {}}
        MetadataCatalog.remove(name)
    # Without any object Detectron2 counts 0, which would read as a failure of the detector.
    counts = detections is None or any(not thing.difficult for image in images for thing in truth[image])
    found = {f"box_{key.lower()}": float(value) for key, value in numbers["bbox"].items()}
    return {key: _percent(value) if counts else None for key, value in found.items()}


def _percent(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def _write_voc(folder: Path, truth: dict[str, list[VocObject]]) -> None:
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "test.txt").write_text("\n".join(truth), encoding="utf-8")
    for image, objects in truth.items():
        tree = ET.ElementTree(_element("annotation", (_object(thing) for thing in objects)))
        tree.write(folder / "Annotations" / f"{image}.xml", encoding="utf-8")


def _object(thing: VocObject) -> ET.Element:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), thing.corners, strict=True)
    # The evaluator reads pose and truncated, and makes nothing of them.
    facts = {"name": thing.name, "pose": "Unspecified", "truncated": 0, "difficult": int(thing.difficult)}
    box = _element("bndbox", (_text(name, value) for name, value in corners))
    return _element("object", [*(_text(name, value) for name, value in facts.items()), box])


def _text(name: str, value: object) -> ET.Element:
    element = ET.Element(name)
    element.text = str(value)
    return element


def _element(name: str, parts: Iterable[ET.Element]) -> ET.Element:
    element = ET.Element(name)
    element.extend(parts)
    return element
