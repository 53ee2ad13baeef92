"""COCO files as labelling tools write them: accepted with the defaults of COCO's own tools, all of them counted."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from detectron2.data import DatasetMapper
from detectron2.data.datasets.coco import load_coco_json
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from core.config import load_config
from core.errors import UserError
from evaluate.detection.data.coco_data import open_coco
from evaluate.detection.data.datasets import open_splits
from evaluate.detection.data.loaders import _Mapper
from evaluate.detection.data.records import DetectionSet
from evaluate.detection.metrics.coco_metrics import coco_metrics
from evaluate.detection.metrics.inference import Detections
from evaluate.detection.probe import find_protocol
from evaluate.detection.settings import DetectionConfig
from tests.evaluate.detection.data.test_coco_data import changed, small, write

Document = dict[str, Any]
Change = Callable[[Document], object]


def each(**values: Any) -> Change:
    return lambda document: [one.update(values) for one in document["annotations"]]


def without(key: str) -> Change:
    return lambda document: [one.pop(key) for one in document["annotations"]]


def opened(root: Path, document: Document, masks: bool = True) -> DetectionSet:
    return open_coco(write(root, small(), document), "val", masks, "polygon", 0.0)


def splits(root: Path, train: Document, val: Document, share: float = 0.0) -> tuple[DetectionSet, DetectionSet]:
    file = find_protocol("coco_maskrcnn_r50_fpn_1x_mulan")
    write(root, train, val)
    return open_splits(load_config(DetectionConfig, file, [f"data.source=coco:{root}", f"data.broken_share={share}"]))


def numbers(split: DetectionSet, by: str) -> dict[str, Any]:
    """Metrics of detections that are the ground truth's boxes, a pixel off."""
    found = []
    for record in split.records:
        for one in record["annotations"]:
            box = [one["bbox"][0] + 1, *one["bbox"][1:]]
            found.append({"image_id": record["image_id"], "category_id": one["category_id"], "score": 0.9, "bbox": box})
    return coco_metrics(split, Detections(found, [r["image_id"] for r in split.records], []), False, by)


@pytest.mark.parametrize(
    ("change", "reason", "count"),
    [
        (without("iscrowd"), "objects: without iscrowd, taken as 0", 3),
        (each(iscrowd=None), "objects: without iscrowd, taken as 0", 3),
        (each(iscrowd=False), "", 0),
        (without("area"), "objects: without area, taken from the mask", 3),
        (each(area=None), "objects: without area, taken from the mask", 3),
    ],
)
def test_missing_values_are_cocos_defaults(tmp_path: Path, change: Change, reason: str, count: int) -> None:
    split, plain = opened(tmp_path / "odd", changed(change)), opened(tmp_path / "plain", small())
    assert split.account.converted == ({reason: count} if reason else {})
    assert [r["annotations"] for r in split.records] == [r["annotations"] for r in plain.records]
    for ours, original in zip(split.truth["annotations"], small()["annotations"], strict=True):
        assert (ours["iscrowd"], type(ours["iscrowd"])) == (0, int)
        polygons = coco_mask.frPyObjects(original["segmentation"], 30, 40)
        assert ours["area"] == coco_mask.area(coco_mask.merge(polygons)) == original["area"]
    assert numbers(split, "pycocotools") == numbers(plain, "pycocotools")


def test_an_area_without_a_mask_is_the_boxs(tmp_path: Path) -> None:
    document = changed(without("area"))
    document["annotations"][0]["segmentation"] = []
    document["annotations"][1].pop("segmentation")
    document["annotations"][2]["segmentation"] = [[0, 0, 8, 0, 8, 9]]  # half of its box
    split = opened(tmp_path, document, masks=False)
    half = float(coco_mask.area(coco_mask.frPyObjects([[0, 0, 8, 0, 8, 9]], 30, 40)[0]))
    assert [one["area"] for one in split.truth["annotations"]] == [100.0, 400.0, half]
    assert split.account.converted == {
        "objects: without area, taken from the box": 2,
        "objects: without area, taken from the mask": 1,
    }


@pytest.mark.parametrize("by", ["pycocotools", "faster-coco-eval"])
@pytest.mark.parametrize("ids", [(0, 1, 2), (1, 1, 1), (None, None, None), ("a", "b", "c")])
def test_useless_annotation_ids_are_replaced(tmp_path: Path, ids: tuple[Any, ...], by: str) -> None:
    document = small()
    for one, number in zip(document["annotations"], ids, strict=True):
        one["id"] = number
        if number is None:
            del one["id"]
    split = opened(tmp_path / "odd", document)
    assert [one["id"] for one in split.truth["annotations"]] == [1, 2, 3]
    assert list(split.account.converted.values()) == [3]
    assert "renumbered" in next(iter(split.account.converted))
    found = numbers(split, by)
    assert found == numbers(opened(tmp_path / "plain", small()), by)
    assert found["box_ap50"] == 100


def test_boxes_over_the_border_are_kept_and_clipped_as_in_detectron2(tmp_path: Path) -> None:
    """One box 6 pixels over the left border, one 10 over the right, one beyond it."""
    document = small()
    document["annotations"][0]["bbox"] = [-6, 2, 17, 10]
    document["annotations"][2]["bbox"] = [30, 10, 20, 10]
    root = write(tmp_path, document, document)
    split = open_coco(root, "train", True, "polygon", 0.0)
    (reason,) = split.account.converted
    assert (split.account.converted[reason], "clipped" in reason, split.excluded) == (2, True, ())
    # Detectron2's own reader and mapper give the same boxes.
    theirs = load_coco_json(str(root / "annotations" / "instances_train2017.json"), str(root / "train2017"))
    mapper = {"augmentations": [], "image_format": "RGB", "use_instance_mask": True}
    for ours, other in zip(split.records, theirs, strict=True):
        found = _Mapper(True, **mapper)(ours)["instances"].gt_boxes.tensor
        assert found.tolist() == DatasetMapper(True, **mapper)(other)["instances"].gt_boxes.tensor.tolist()
    assert found.tolist() == [[30, 10, 40, 20]]
    truth = open_coco(root, "val", True, "polygon", 0.0).truth
    published = COCO(str(root / "annotations" / "instances_val2017.json"))
    assert [one["bbox"] for one in truth["annotations"]] == [one["bbox"] for one in published.loadAnns([1, 2, 3])]
    document["annotations"][0]["bbox"] = [-16, 2, 16, 10]
    outside = open_coco(write(tmp_path, document), "train", True, "polygon", 0.5)
    assert outside.account.skipped == {"objects: box outside the image": 1}
    assert [len(record["annotations"]) for record in outside.records] == [1, 1]


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    plain = open_coco(write(tmp_path / "plain", small()), "train", True, "polygon", 0.0)
    marked = open_coco(write(tmp_path / "bom", "\ufeff" + json.dumps(small())), "train", True, "polygon", 0.0)
    assert [r["annotations"] for r in marked.records] == [r["annotations"] for r in plain.records]


def test_gaps_in_category_ids_are_numbered_as_in_detectron2(tmp_path: Path) -> None:
    root = write(tmp_path, small())
    split = open_coco(root, "train", True, "polygon", 0.0)
    theirs = load_coco_json(
        str(root / "annotations" / "instances_train2017.json"), str(root / "train2017"), "gaps here"
    )
    for ours, other in zip(split.records, theirs, strict=True):
        assert [a["category_id"] for a in ours["annotations"]] == [a["category_id"] for a in other["annotations"]]
    assert ["1 … 3" in note for note in split.account.notes] == [True]


def test_categories_of_one_name_stay_apart(tmp_path: Path) -> None:
    split = opened(tmp_path, changed(lambda d: d["categories"][0].update(name="ball")))
    assert split.classes == ("ball (id 1)", "ball (id 3)")
    assert len(numbers(split, "pycocotools")["box_ap_per_class"]) == 2


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    """The test split numbers the same classes otherwise, and has one more without an object."""
    other = small()
    other["categories"] = [{"id": 0, "name": "all"}, {"id": 1, "name": "cup"}, {"id": 2, "name": "ball"}]
    for one in other["annotations"]:
        one["category_id"] = {3: 1, 1: 2}[one["category_id"]]
    train, val = splits(tmp_path / "odd", small(), other)
    _, plain = splits(tmp_path / "plain", small(), small())
    assert (val.classes, val.category_ids) == (train.classes, train.category_ids) == (("ball", "cup"), (1, 3))
    assert [r["annotations"] for r in val.records] == [r["annotations"] for r in plain.records]
    assert numbers(val, "pycocotools") == numbers(plain, "pycocotools")
    assert any("matched by name" in note for note in val.account.notes)
    assert not any("matched by name" in note for note in plain.account.notes)


def test_a_class_without_test_objects_has_no_number_and_a_note(tmp_path: Path) -> None:
    val = changed(lambda d: d["annotations"].pop(1))
    _, split = splits(tmp_path, small(), val)
    assert any("ball" in note for note in split.account.notes)
    assert numbers(split, "pycocotools")["box_ap_per_class"] == {"ball": None, "cup": pytest.approx(80, abs=20)}


@pytest.mark.parametrize("size", [{}, {"width": 0, "height": 0}, {"width": None, "height": None}])
def test_missing_sizes_are_the_images(tmp_path: Path, size: Document) -> None:
    document = small()
    for image in document["images"]:
        del image["width"], image["height"]
        image |= size
    split = opened(tmp_path, document)
    assert [(r["width"], r["height"]) for r in split.records] == [(40, 30)] * 2
    assert split.account.converted == {"images: without a size, taken from the image": 2}


def test_other_sizes_are_found_before_training(tmp_path: Path) -> None:
    document = changed(lambda d: d["images"][1].update(width=41))
    with pytest.raises(UserError, match=r"b\.png.*40×30.*41×30"):
        splits(tmp_path, document, small())
    train, _ = splits(tmp_path, document, small(), share=0.5)
    assert [record["image_id"] for record in train.records] == [7]
    assert train.account.skipped == {"images: not of the size in the annotations": 1}
    (tmp_path / "val2017" / "b.png").write_bytes(b"not an image")
    (tmp_path / "val2017" / "a.png").write_bytes(b"neither")
    with pytest.raises(UserError, match=r"val2017/b\.png"):
        splits_of_existing(tmp_path)


def splits_of_existing(root: Path) -> tuple[DetectionSet, DetectionSet]:
    file = find_protocol("coco_maskrcnn_r50_fpn_1x_mulan")
    return open_splits(load_config(DetectionConfig, file, [f"data.source=coco:{root}", "data.broken_share=0.5"]))


def test_what_is_not_used_is_counted(tmp_path: Path) -> None:
    """An image that no list names, one that shows nothing, and one that is missing."""
    document = small()
    document["images"] += [
        {"id": 11, "file_name": "none.png", "width": 40, "height": 30},
        {"id": 12, "file_name": "empty.png", "width": 40, "height": 30},
    ]
    write(tmp_path, document, small())
    for name in ("empty.png", "extra.PNG"):
        (tmp_path / "train2017" / name).write_bytes((tmp_path / "train2017" / "a.png").read_bytes())
    train, _ = splits_of_existing(tmp_path)
    assert train.account.skipped == {
        "images: listed, but no such file": 1,
        "images: in the folder, but not listed": 1,
    }
    assert sum(train.account.skipped.values()) + len(train.records) == 5  # four files and the missing one
    assert any("1 images" in note for note in train.account.notes)
