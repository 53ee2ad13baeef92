"""Loading COCO's folder: what is read, and one sentence for everything that is wrong with it."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from detectron2.data import DatasetCatalog, MetadataCatalog

from core.config import load_config
from core.errors import UserError
from evaluate.detection.data.coco_data import open_coco
from evaluate.detection.data.datasets import open_splits, register
from evaluate.detection.probe import find_protocol
from evaluate.detection.settings import DetectionConfig

Document = dict[str, Any]


def polygon(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def small() -> Document:
    """Two images of 40 × 30 pixels, three objects; category ids with a gap."""
    document: Document = {
        "images": [{"id": 7, "file_name": "a.png", "width": 40, "height": 30},
                   {"id": 9, "file_name": "b.png", "width": 40, "height": 30}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 10, 10], "segmentation": polygon(1, 2, 11, 12)},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [5, 5, 20, 20], "segmentation": polygon(5, 5, 25, 25)},
            {"id": 3, "image_id": 9, "category_id": 3, "bbox": [0, 0, 8, 9], "segmentation": polygon(0, 0, 8, 9)},
        ],
        "categories": [{"id": 3, "name": "cup"}, {"id": 1, "name": "ball"}],
    }  # fmt: skip
    for one in document["annotations"]:
        one |= {"area": one["bbox"][2] * one["bbox"][3], "iscrowd": 0}
    return document


def write(root: Path, train: Document | str, val: Document | None = None) -> Path:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, document in (("train2017", train), ("val2017", val or small())):
        (root / split).mkdir(exist_ok=True)
        for name in ("a.png", "b.png"):
            PIL.Image.new("RGB", (40, 30), "grey").save(root / split / name)
        text = document if isinstance(document, str) else json.dumps(document)
        (root / "annotations" / f"instances_{split}.json").write_text(text)
    return root


def rle(counts: Any, size: list[int]) -> Callable[[Document], object]:
    return lambda d: d["annotations"][0].update(segmentation={"size": size, "counts": counts})


def changed(change: Callable[[Document], object]) -> Document:
    document = small()
    change(document)
    return document


def test_records_are_detectron2s(tmp_path: Path) -> None:
    split = open_coco(write(tmp_path, small()), "train", True, "polygon", 0.0)
    assert (split.classes, split.category_ids, split.excluded) == (("ball", "cup"), (1, 3), ())
    first = split.records[0]
    assert (first["file_name"], first["image_id"], first["height"]) == (str(tmp_path / "train2017" / "a.png"), 7, 30)
    assert [(one["bbox"], one["category_id"]) for one in first["annotations"]] == [
        ([1, 2, 10, 10], 1),
        ([5, 5, 20, 20], 0),
    ]
    from detectron2.structures import BoxMode

    assert first["annotations"][0]["bbox_mode"] == BoxMode.XYWH_ABS


def test_the_catalogue_gives_them_back(tmp_path: Path) -> None:
    split = open_coco(write(tmp_path, small()), "train", True, "polygon", 0.0)
    for _ in range(2):  # once more does no harm
        name = register(split)
    assert DatasetCatalog.get(name) is split.records
    assert MetadataCatalog.get(name).thing_classes == ["ball", "cup"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(annotations=[]), "no annotations"),
        (lambda d: d.update(images=[]), "no images"),
        (lambda d: d.pop("categories"), "no categories"),
        (lambda d: d["annotations"][1].update(category_id=2), r"annotation 2: .*category 2\b.*\(1, 3\)"),
        (lambda d: d["annotations"][1].update(image_id=8), "annotation 2: .*image 8"),
        (lambda d: [d["annotations"][1].pop(key) for key in ("bbox", "segmentation")], "annotation 2 .*bbox"),
        (
            lambda d: d["images"][1].update(file_name="c.png"),
            r"1 of 2 .*c\.png",
        ),
        (lambda d: d["images"][1].update(id=7), "images.*id 7"),
        (lambda d: d["images"][0].update(width="40 px"), "entry 0 of images.*width"),
        (
            lambda d: d["annotations"][0].update(bbox=[1, 2, 0, 5]),
            r"1 of 3 .*annotation 1: box .* area",
        ),
        (lambda d: d["annotations"][0].update(bbox=[40, 2, 9, 5]), "outside.*40×30"),
        (lambda d: d["annotations"][0].update(bbox=[float("nan"), 2, 9, 5]), "box.*finite"),
        (lambda d: d["annotations"][0].update(bbox="all"), "box.*all.*finite"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, "3", 4]), "box.*finite"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "box.*finite"),
        (lambda d: d["annotations"][0].update(area=float("inf")), "entry 0 of annotations.*area.*inf"),
        (lambda d: d["annotations"][0].update(area=-1), "entry 0 of annotations.*area.*-1"),
        (lambda d: d["annotations"][0].update(iscrowd=2), "iscrowd.* 2"),
        (lambda d: d["images"][0].update(width=-1), "entry 0 of images.*width.* -1 "),
        (lambda d: d["images"][0].update(file_name=3), "entry 0 of images.*file_name"),
        (lambda d: d["images"][0].update(file_name=""), "entry 0 of images.*file_name"),
        (lambda d: d["images"][0].update(file_name="../b.png"), r"'\.\./b\.png'.*outside"),
        (lambda d: d["images"][0].update(file_name="/etc/passwd"), "'/etc/passwd'.*outside"),
        (lambda d: d["categories"][0].update(name=None), r"entry 0 of categories.*\bname"),
        (lambda d: d["categories"][0].update(id=[3]), r"entry 0 of categories.*\bid\b"),
        (lambda d: d["categories"][0].update(id=1), "categories.*id 1"),
        (lambda d: d["annotations"][0].pop("segmentation"), r"annotation 1\b.*mask.*detector\.masks=false"),
        (rle([1200], [30, 40]), r"data\.mask_format=bitmask"),
        (rle([1200], [40, 30]), r"run lengths.*\[40, 30\].*\[30, 40\]"),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, change: Callable[[Document], object], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        open_coco(write(tmp_path, changed(change)), "train", True, "polygon", 0.0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("text", "message"), [("{", "JSON"), ("[]", "list")])
def test_a_file_that_is_not_a_list_of_objects(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_coco(write(tmp_path, text), "train", True, "polygon", 0.0)


def test_a_few_bad_ones_among_many_are_left_out_and_named(tmp_path: Path) -> None:
    document = small()
    document["annotations"] += [{**document["annotations"][2], "id": 100 + n} for n in range(500)]
    document["annotations"][0]["bbox"] = [1, 2, 0, 10]
    document["annotations"][1]["bbox"] = [-1.5, 5, 20, 20]  # a rounding error
    split = open_coco(write(tmp_path, small(), document), "val", True, "polygon", 0.01)
    assert len(split.excluded) == 1
    assert "annotation 1: box [1, 2, 0, 10] " in split.excluded[0]
    assert [len(record["annotations"]) for record in split.records] == [1, 501]
    # What is measured against has the same objects, and is otherwise as published.
    assert split.truth == {**document, "annotations": document["annotations"][1:]}


def test_an_invalid_box_is_not_tolerated(tmp_path: Path) -> None:
    document = changed(lambda d: d["annotations"][0].update(bbox=[1, 2, float("nan"), 4]))
    with pytest.raises(UserError, match=r"annotation 1: box \[1, 2, nan, 4\].*finite"):
        open_coco(write(tmp_path, small(), document), "val", True, "polygon", 0.9)


def config_for(root: Path, *overrides: str) -> DetectionConfig:
    file = find_protocol("coco_maskrcnn_r50_fpn_1x_mulan")
    return load_config(DetectionConfig, file, [f"data.source=coco:{root}", *overrides])


def test_splits_of_other_categories_are_refused(tmp_path: Path) -> None:
    other = changed(lambda d: d["categories"][0].update(name="mug"))
    with pytest.raises(UserError, match=r"categories.* 3 'mug'"):
        open_splits(config_for(write(tmp_path, small(), other)))


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    crowds = changed(lambda d: [one.update(iscrowd=1) for one in d["annotations"]])
    with pytest.raises(UserError, match=r"no image.*train"):
        open_splits(config_for(write(tmp_path, crowds)))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"instances_train2017\.json.*--data coco:ROOT"):
        open_splits(config_for(tmp_path))
    write(tmp_path, small())
    for name in ("a.png", "b.png"):
        (tmp_path / "train2017" / name).unlink()
    (tmp_path / "train2017").rmdir()
    with pytest.raises(UserError, match=r"train2017"):
        open_splits(config_for(tmp_path))
