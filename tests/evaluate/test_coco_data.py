"""Loading COCO and VOC folders: what is read, and one sentence for everything that is wrong with them."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from core import detectron2_mends

detectron2_mends.announce()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as coco_mask

from core.config import load_config
from core.data.scene_folders import run_lengths, write_coco
from core.data.scenes import ScenesConfig
from core.errors import UserError
from evaluate.detection.coco_data import open_coco
from evaluate.detection.datasets import open_splits, register
from evaluate.detection.settings import DetectionConfig, find_protocol
from evaluate.detection.voc_data import CLASSES, open_voc

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


def changed(change: Callable[[Document], object]) -> Document:
    document = small()
    change(document)
    return document


def test_records_are_detectron2s(tmp_path: Path) -> None:
    split = open_coco(write(tmp_path, small()), "train", True, "polygon", 0.0)
    assert (split.classes, split.category_ids, split.left_out) == (("ball", "cup"), (1, 3), ())
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


def test_run_lengths_are_the_scenes_masks(tmp_path: Path) -> None:
    from core.data.scene_sets import Scenes

    config = ScenesConfig(size=48, objects=(2, 4), radius=(0.15, 0.3), pretrain=1, train=3, test=1)
    split = open_coco(write_coco(tmp_path / "scenes", config), "train", True, "bitmask", 0.0)
    for index, record in enumerate(split.records):
        scene = Scenes("train", config).scene(index)
        masks = [coco_mask.decode(one["segmentation"]).astype(bool) for one in record["annotations"]]
        assert np.array_equal(np.stack(masks), scene.masks)
        assert [one["category_id"] for one in record["annotations"]] == scene.labels.tolist()


def rle(counts: Any, size: list[int]) -> Callable[[Document], object]:
    return lambda d: d["annotations"][0].update(segmentation={"size": size, "counts": counts})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(annotations=[]), "has no annotations"),
        (lambda d: d.update(images=[]), "has no images"),
        (lambda d: d.pop("categories"), "has no categories"),
        (lambda d: d["annotations"][1].update(category_id=2), r"annotation 2: category 2 is not among .* \(1, 3\)"),
        (lambda d: d["annotations"][1].update(image_id=8), "annotation 2: there is no image 8"),
        (lambda d: d["annotations"][1].pop("bbox"), "entry 1 of annotations lacks one of id, image_id"),
        (
            lambda d: d["images"][1].update(file_name="c.png"),
            r"1 of 2 images are broken.*c\.png: listed, but there is no",
        ),
        (lambda d: d["images"][1].update(id=7), "two of its images have the id 7"),
        (lambda d: d["annotations"][1].update(id=1), "two of its annotations have the id 1"),
        (lambda d: d["annotations"][1].update(id=0), "the id 0, which COCO's evaluation takes for no match"),
        (lambda d: d["annotations"][1].pop("iscrowd"), "entry 1 of annotations lacks one of .*iscrowd"),
        (lambda d: d["images"][0].update(width="40"), "entry 0 of images has no whole number for width"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 0, 5]), r"1 of 3 boxes .*annotation 1: box .* has no area"),
        (lambda d: d["annotations"][0].update(bbox=[35, 2, 9, 5]), "lies outside the image of 40×30 pixels"),
        (lambda d: d["annotations"][0].update(bbox=[float("nan"), 2, 9, 5]), "is not four numbers"),
        (lambda d: d["annotations"][0].update(bbox="all"), "is not four numbers"),
        (lambda d: d["annotations"][0].pop("segmentation"), "annotation 1 has no mask; .*detector.masks=false"),
        (lambda d: d["annotations"][0].update(segmentation=[[1, 2, 3, 4]]), "annotation 1 has no mask"),
        (rle([1200], [30, 40]), "set data.mask_format=bitmask"),
        (rle([1200], [40, 30]), r"run lengths of size \[40, 30\] on an image of \[30, 40\]"),
    ],
)
def test_bad_annotations_are_named(tmp_path: Path, change: Callable[[Document], object], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        open_coco(write(tmp_path, changed(change)), "train", True, "polygon", 0.0)
    assert "\n" not in str(raised.value)


def test_run_lengths_of_another_sum_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run lengths cover 1199 pixels of 1200"):
        open_coco(write(tmp_path, changed(rle([1199], [30, 40]))), "train", True, "bitmask", 0.0)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not readable JSON"), ("[]", "holds a list, not COCO's object")]
)
def test_a_file_that_is_no_list_of_objects(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_coco(write(tmp_path, text), "train", True, "polygon", 0.0)


def test_a_few_bad_ones_among_many_are_left_out_and_named(tmp_path: Path) -> None:
    document = small()
    document["annotations"] += [{**document["annotations"][2], "id": 100 + n} for n in range(500)]
    document["annotations"][0]["bbox"] = [1, 2, 0, 10]
    document["annotations"][1]["bbox"] = [-1.5, 5, 20, 20]  # a rounding error
    split = open_coco(write(tmp_path, small(), document), "val", True, "polygon", 0.01)
    assert len(split.left_out) == 1
    assert "annotation 1: box [1, 2, 0, 10] has no area" in split.left_out[0]
    assert [len(record["annotations"]) for record in split.records] == [1, 501]
    assert split.truth == document  # what is measured against stays as published


def config_for(root: Path, *overrides: str) -> DetectionConfig:
    file = find_protocol("coco_maskrcnn_r50_fpn_1x_mulan")
    return load_config(DetectionConfig, file, [f"data.source=coco:{root}", *overrides])


def test_splits_of_other_categories_are_refused(tmp_path: Path) -> None:
    other = changed(lambda d: d["categories"][0].update(name="mug"))
    with pytest.raises(UserError, match=r"have different categories, e\.g\. 3 'cup' is in one of them only"):
        open_splits(config_for(write(tmp_path, small(), other)))


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    crowds = changed(lambda d: [one.update(iscrowd=1) for one in d["annotations"]])
    with pytest.raises(UserError, match="has no image with an object that could be trained on"):
        open_splits(config_for(write(tmp_path, crowds)))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no annotations .*instances_train2017\.json; --data coco:ROOT wants"):
        open_splits(config_for(tmp_path))
    write(tmp_path, small())
    for name in ("a.png", "b.png"):
        (tmp_path / "train2017" / name).unlink()
    (tmp_path / "train2017").rmdir()
    with pytest.raises(UserError, match=r"can't read the image folder .*train2017"):
        open_splits(config_for(tmp_path))


# VOC


def write_voc(root: Path, objects: str = "", name: str = "dog", box: tuple[int, ...] = (1, 1, 20, 30)) -> Path:
    for year, part in (("VOC2007", "trainval"), ("VOC2012", "trainval"), ("VOC2007", "test")):
        for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
            (root / year / folder).mkdir(parents=True, exist_ok=True)
        image = f"{year[3:]}_{part}"
        (root / year / "ImageSets" / "Main" / f"{part}.txt").write_text(f"{image}\n")
        PIL.Image.new("RGB", (40, 30), "grey").save(root / year / "JPEGImages" / f"{image}.jpg")
        corners = "".join(f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        thing = (
            f"<object><name>{name}</name><pose>x</pose><truncated>0</truncated><difficult>0</difficult>"
            f"<bndbox>{corners}</bndbox></object>"
        )
        (root / year / "Annotations" / f"{image}.xml").write_text(
            f"<annotation><size><width>40</width><height>30</height></size>{objects or thing}</annotation>"
        )
    return root


@pytest.mark.parametrize("inside", ["", "VOCdevkit"])
def test_vocs_parts_are_joined_and_counted_from_zero(tmp_path: Path, inside: str) -> None:
    write_voc(tmp_path / inside)
    train, val = (open_voc(tmp_path, split, 0.0) for split in ("train", "val"))
    assert [record["image_id"] for record in train.records] == ["2007_trainval", "2012_trainval"]
    assert [record["image_id"] for record in val.records] == ["2007_test"]
    assert train.records[0]["annotations"] == [
        {"bbox": [0, 0, 20, 30], "bbox_mode": 1, "category_id": CLASSES.index("dog"), "iscrowd": 0}
    ]


def test_voc_agrees_with_detectron2s_own_loader(tmp_path: Path) -> None:
    from detectron2.data.datasets.pascal_voc import load_voc_instances
    from detectron2.structures import BoxMode

    write_voc(tmp_path, box=(3, 4, 20, 30))
    # Theirs takes a list of one image for none.
    (tmp_path / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_text("2007_test\n2007_test\n")
    theirs = load_voc_instances(str(tmp_path / "VOC2007"), "test", CLASSES)[0]
    ours = open_voc(tmp_path, "val", 0.0).records[0]
    for key in ("file_name", "image_id", "height", "width"):
        assert ours[key] == theirs[key]
    (one,), (other,) = ours["annotations"], theirs["annotations"]
    assert BoxMode.convert(one["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) == other["bbox"]
    assert one["category_id"] == other["category_id"]


def test_what_is_wrong_with_voc_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"can't read .*trainval\.txt .*--data voc:ROOT wants ROOT/VOC2007"):
        open_voc(tmp_path, "train", 0.0)
    with pytest.raises(UserError, match="object 0 is a 'unicorn', which is none of VOC's 20 classes"):
        open_voc(write_voc(tmp_path, name="unicorn"), "train", 0.0)
    with pytest.raises(UserError, match=r"object 0: box .* lies outside the image of 40×30"):
        open_voc(write_voc(tmp_path, box=(1, 1, 60, 30)), "train", 0.0)
    with pytest.raises(UserError, match="is not a readable annotation of VOC"):
        open_voc(write_voc(tmp_path, objects="<object>"), "train", 0.0)
    write_voc(tmp_path)
    (tmp_path / "VOC2007" / "JPEGImages" / "2007_test.jpg").unlink()
    with pytest.raises(UserError, match="1 of 1 images are broken"):
        open_voc(tmp_path, "val", 0.0)
    (tmp_path / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_text("")
    with pytest.raises(UserError, match="lists no images"):
        open_voc(tmp_path, "val", 0.0)


def test_our_run_lengths_are_pycocotools() -> None:
    mask = np.random.default_rng(0).random((30, 40)) > 0.5
    compressed = coco_mask.frPyObjects({"size": [30, 40], "counts": run_lengths(mask)}, 30, 40)
    assert np.array_equal(coco_mask.decode(compressed).astype(bool), mask)


def test_compressed_run_lengths_are_those_of_pycocotools_and_must_fit() -> None:
    from pycocotools import mask as coco_mask

    from evaluate.detection.coco_data import _run_lengths

    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = (rng.random((30, 40)) < rng.random()).astype(np.uint8)
        runs = run_lengths(mask)
        text = coco_mask.frPyObjects({"size": [30, 40], "counts": runs}, 30, 40)["counts"].decode()
        assert _run_lengths(text) == runs
    assert sum(_run_lengths("52203") or []) != 1600  # pycocotools would decode more pixels than there are


@pytest.mark.parametrize("counts", [["a", 3], [-100, 1300], None, "\x7f", "P", [True, 1199]])
def test_run_lengths_that_are_none_are_refused(tmp_path: Path, counts: Any) -> None:
    with pytest.raises(UserError, match="has no run lengths that can be read"):
        open_coco(write(tmp_path, changed(rle(counts, [30, 40]))), "train", True, "bitmask", 0.0)


def test_compressed_run_lengths_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run lengths cover \d+ pixels of 1200"):
        open_coco(write(tmp_path, changed(rle("52203", [30, 40]))), "train", True, "bitmask", 0.0)
