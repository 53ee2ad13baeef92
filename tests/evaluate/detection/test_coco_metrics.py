"""COCO's numbers: both libraries against each other, Detectron2's evaluator, and cases counted by hand."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_mask

from core.data.scenes.coco_ade20k_folders import write_coco
from core.data.scenes.render import ScenesConfig
from evaluate.detection.data.coco_data import open_coco
from evaluate.detection.data.datasets import register
from evaluate.detection.data.records import DetectionSet
from evaluate.detection.metrics.coco_metrics import NUMBERS, coco_metrics
from evaluate.detection.metrics.inference import Detections
from tests.evaluate.detection.data.test_coco_data import small, write


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> DetectionSet:
    config = ScenesConfig(size=96, objects=(2, 5), radius=(0.1, 0.4), pretrain=1, train=1, test=12)
    return open_coco(write_coco(tmp_path_factory.mktemp("coco") / "s", config), "val", True, "bitmask", 0.0)


def guesses(split: DetectionSet) -> Detections:
    """The truth, moved by some pixels, with doubles, misses, wrong classes and random scores."""
    rng = np.random.default_rng(0)
    found: list[dict[str, Any]] = []
    for record in split.records:
        for one in record["annotations"]:
            for _ in range(rng.integers(0, 3)):
                down, right = rng.integers(-6, 7, 2)
                mask = np.roll(coco_mask.decode(one["segmentation"]), (down, right), (0, 1))
                segmentation = coco_mask.encode(np.asfortranarray(mask))
                found.append(
                    {
                        "image_id": record["image_id"],
                        "category_id": one["category_id"] if rng.random() < 0.8 else int(rng.integers(8)),
                        "bbox": coco_mask.toBbox(segmentation).tolist(),
                        "score": float(rng.random()),
                        "segmentation": {"size": [96, 96], "counts": segmentation["counts"].decode()},
                    }
                )
    return Detections(found, [record["image_id"] for record in split.records], [])


def test_both_libraries_give_the_same_numbers(split: DetectionSet) -> None:
    pytest.importorskip("faster_coco_eval")
    found = guesses(split)
    fast, slow = (coco_metrics(split, found, True, by) for by in ("faster-coco-eval", "pycocotools"))
    assert fast == slow
    assert 10 < slow["box_ap"] < 90
    assert slow["box_ap_small"] is not None
    assert slow["box_ap_small"] != slow["box_ap_medium"] != slow["mask_ap_medium"]


def test_they_are_those_of_detectron2s_evaluator(split: DetectionSet, tmp_path: Path) -> None:
    found = guesses(split)
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(split.truth))
    name = register(split)
    MetadataCatalog.get(name).set(
        json_file=str(file), thing_dataset_id_to_contiguous_id={n + 1: n for n in range(len(split.classes))}
    )
    evaluator = COCOEvaluator(name, ("bbox", "segm"), distributed=False, use_fast_impl=False)
    evaluator.reset()
    for image in found.images:
        entries = [entry for entry in found.objects if entry["image_id"] == image]
        instances = Instances((96, 96))
        boxes = torch.tensor([entry["bbox"] for entry in entries]).reshape(-1, 4)
        instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
        instances.scores = torch.tensor([entry["score"] for entry in entries], dtype=torch.float64)
        instances.pred_classes = torch.tensor([entry["category_id"] for entry in entries])
        masks = [coco_mask.decode(entry["segmentation"]) for entry in entries] or [np.zeros((96, 96))]
        instances.pred_masks = torch.from_numpy(np.stack(masks).astype(bool))[: len(entries)]
        evaluator.process([{"image_id": image}], [{"instances": instances}])
    theirs, ours = evaluator.evaluate(), coco_metrics(split, found, True)
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        for key in ("AP", "AP50", "AP75", "APs", "APm"):
            size = {"APs": "ap_small", "APm": "ap_medium"}.get(key, key.lower())
            assert ours[f"{name}_{size}"] == pytest.approx(theirs[kind][key], abs=1e-4), (kind, key)
        for label, value in ours[f"{name}_ap_per_class"].items():
            expected = theirs[kind][f"AP-{label}"]
            assert value is None if np.isnan(expected) else value == pytest.approx(expected, abs=1e-4)


def test_the_truth_itself_is_perfect_and_nothing_is_zero(split: DetectionSet) -> None:
    truth = [
        {"image_id": record["image_id"], "score": 1.0, **{k: one[k] for k in ("category_id", "bbox", "segmentation")}}
        for record in split.records
        for one in record["annotations"]
    ]
    images = [record["image_id"] for record in split.records]
    perfect = coco_metrics(split, Detections(truth, images, []), True)
    assert (perfect["box_ap"], perfect["mask_ap"], perfect["box_ap75"]) == (100.0, 100.0, 100.0)
    for by in ("faster-coco-eval", "pycocotools"):
        nothing = coco_metrics(split, Detections([], images, []), True, by)
        assert (nothing["box_ap"], nothing["mask_ap"], nothing["box_ar100"]) == (0.0, 0.0, 0.0)
    assert len([key for key in nothing if key.startswith("box_a")]) == len(NUMBERS) + 1


def test_an_image_that_can_not_be_decoded_does_not_count(split: DetectionSet) -> None:
    first = split.records[0]
    truth = [
        {"image_id": first["image_id"], "score": 1.0, **{k: one[k] for k in ("category_id", "bbox", "segmentation")}}
        for one in first["annotations"]
    ]
    metrics = coco_metrics(split, Detections(truth, [first["image_id"]], ["the others"]), False)
    assert metrics["box_ap"] == 100.0
    assert "mask_ap" not in metrics
    present = {one["category_id"] for one in first["annotations"]}
    assert {label for label, value in metrics["box_ap_per_class"].items() if value is None} == {
        label for number, label in enumerate(split.classes) if number not in present
    }


@pytest.mark.parametrize("by", ["faster-coco-eval", "pycocotools"])
@pytest.mark.parametrize("masks", [True, False])
def test_what_was_tolerated_does_not_reach_the_evaluation(tmp_path: Path, by: str, masks: bool) -> None:
    """A polygon of two numbers would end the evaluation; a box without area could never be found."""
    if by == "faster-coco-eval":
        pytest.importorskip("faster_coco_eval")
    document = small()
    document["annotations"][0]["bbox"] = [1, 2, 0, 10]
    document["annotations"] += [{**document["annotations"][2], "id": 4, "segmentation": [[5, 5]]}]
    split = open_coco(write(tmp_path, small(), document), "val", masks, "polygon", 0.5)
    assert len(split.excluded) == (2 if masks else 1)
    truth = [
        {"image_id": record["image_id"], "score": 1.0, "category_id": one["category_id"], "bbox": one["bbox"]}
        | ({"segmentation": coco_mask.frPyObjects(one["segmentation"], 30, 40)[0]} if masks else {})
        for record in split.records
        for one in record["annotations"]
    ]
    metrics = coco_metrics(split, Detections(truth, [7, 9], []), masks, by)
    assert metrics["box_ap"] == 100.0
    assert metrics.get("mask_ap", 100.0) == 100.0
