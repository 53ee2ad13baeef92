"""COCO's format in the folders, names, ids and numbers that Roboflow, CVAT, labelme and Label Studio write."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from pycocotools.coco import COCO

from core.errors import UserError
from evaluate.detection.data.coco_data import open_coco
from evaluate.detection.data.coco_layout import find_split
from evaluate.detection.data.datasets import check_images
from evaluate.detection.data.records import DetectionSet
from tests.evaluate.detection.data.test_coco_data import changed, small, write

Document = dict[str, Any]


def opened(root: Path, split: str = "val", masks: bool = False) -> DetectionSet:
    return check_images(open_coco(root, split, masks, "polygon", 0.0), 0.0)


def moved(root: Path, moves: dict[str, str]) -> Path:
    """COCO's own layout in a folder, and what lies in it moved."""
    write(root, small())
    for old, new in moves.items():
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(root / old, root / new)
    return root


JSON = "annotations/instances_{}2017.json"
ROBOFLOW = {"train2017": "train", "val2017": "valid", JSON.format("train"): "train/_annotations.coco.json",
            JSON.format("val"): "valid/_annotations.coco.json"}  # fmt: skip
CVAT = {"train2017": "images/train", "val2017": "images/validation",
        JSON.format("train"): "annotations/instances_train.json",
        JSON.format("val"): "annotations/instances_validation.json"}  # fmt: skip
PLAIN = {"train2017": "train", "val2017": "test", JSON.format("train"): "train.json", JSON.format("val"): "test.json"}


@pytest.mark.parametrize(
    ("moves", "name"), [({}, "val2017"), (ROBOFLOW, "valid"), (CVAT, "validation"), (PLAIN, "test")]
)
def test_layouts(tmp_path: Path, moves: dict[str, str], name: str) -> None:
    root = moved(tmp_path / "set #1, ü", moves)
    found = {split: opened(root, split) for split in ("train", "val")}
    assert find_split(root, "val").name == name
    assert [len(split.records) for split in found.values()] == [2, 2]
    assert all(Path(record["file_name"]).is_file() for split in found.values() for record in split.records)
    assert found["train"].records[0]["file_name"] != found["val"].records[0]["file_name"]
    assert any("train is train" in note for note in found["train"].account.notes) == bool(moves)
    assert any(name in note for note in found["val"].account.notes) == bool(moves)
    assert found["val"].account.skipped == {}


def test_of_two_annotation_files_the_other_is_noted(tmp_path: Path) -> None:
    root = write(tmp_path, small())
    shutil.copy(root / JSON.format("val"), root / "annotations/instances_val.json")
    assert any("instances_val.json" in note for note in opened(root).account.notes)


def test_a_folder_without_annotations_says_which_are_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"instances_train2017\.json.*_annotations\.coco\.json"):
        opened(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "train.json").write_text("{}")
    (tmp_path / "train").rmdir()
    with pytest.raises(UserError, match=r"train\.json.*folder of images"):
        opened(tmp_path, "train")


def test_images_in_sub_folders_of_equal_names(tmp_path: Path) -> None:
    document = small()
    for number, image in enumerate(document["images"]):
        image["file_name"] = f"part {number}/a.png"
    root = write(tmp_path, small(), document)
    for number in range(2):
        (root / f"val2017/part {number}").mkdir()
        shutil.copy(root / "val2017/a.png", root / f"val2017/part {number}/a.png")
    found = opened(root)
    assert [Path(record["file_name"]).parent.name for record in found.records] == ["part 0", "part 1"]
    assert found.account.skipped == {"images: in the folder, but not listed": 2}  # a.png, b.png beside the folders


NFD = unicodedata.normalize("NFD", "é.png")


@pytest.mark.parametrize(
    ("listed", "stored", "counted"),
    [
        ("C:\\Users\\me\\shots\\a.png", "a.png", "another folder"),
        ("/home/me/val2017/a.png", "a.png", "another folder"),
        ("/data/local-files/?d=part/a.png", "a.png", "another folder"),
        ("part\\a.png", "part/a.png", "another spelling"),
        ("./a.png", "a.png", "another spelling"),
        ("val2017/a.png", "a.png", "another folder"),
        ("A.PNG", "a.png", "another spelling"),
        (NFD, unicodedata.normalize("NFC", "é.png"), "another spelling"),
        (unicodedata.normalize("NFC", "é.png"), NFD, "another spelling"),
        ("a", "a", ""),
    ],
)
def test_names_of_files(tmp_path: Path, listed: str, stored: str, counted: str) -> None:
    root = write(tmp_path, small(), changed(lambda d: d["images"][0].update(file_name=listed)))
    (root / "val2017" / stored).parent.mkdir(exist_ok=True)
    (root / "val2017/a.png").rename(root / "val2017" / stored)
    found = opened(root)
    assert Path(found.records[0]["file_name"]) == root / "val2017" / stored
    reasons = [reason for reason in found.account.converted if "listed" in reason]
    assert [counted in reason for reason in reasons] == [True] * bool(counted)


@pytest.mark.parametrize("listed", ["../train2017/a.png", "x\\..\\..\\train2017\\a.png", "/etc/hostname"])
def test_names_never_lead_out_of_the_folder(tmp_path: Path, listed: str) -> None:
    with pytest.raises(UserError, match="outside of its folder"):
        opened(write(tmp_path, small(), changed(lambda d: d["images"][0].update(file_name=listed))))


def test_two_names_for_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"one file.*a\.png"):
        opened(write(tmp_path, small(), changed(lambda d: d["images"][1].update(file_name="x/a.png"))))


def test_an_image_listed_twice_is_noted(tmp_path: Path) -> None:
    found = opened(write(tmp_path, small(), changed(lambda d: d["images"][1].update(file_name="a.png"))))
    assert len(found.records) == 2
    assert any("more than once" in note for note in found.account.notes)
    assert found.account.skipped == {"images: in the folder, but not listed": 1}


def ids(of_image: Callable[[int], Any], of_class: Callable[[int], Any]) -> Document:
    document = small()
    for image in document["images"]:
        image["id"] = of_image(image["id"])
    for category in document["categories"]:
        category["id"] = of_class(category["id"])
    for one in document["annotations"]:
        one.update(image_id=of_image(one["image_id"]), category_id=of_class(one["category_id"]))
    return document


@pytest.mark.parametrize(
    ("of_image", "of_class", "reasons"),
    [
        (float, float, ["written as text or with a decimal point"]),
        (str, str, ["written as text or with a decimal point"]),
        (lambda n: f"{n:012d}", int, ["written as text or with a decimal point"]),
        (lambda n: f"frame-{n}", int, ["images: ids that are text"]),
        (int, lambda n: f"class {n}", ["categories: ids that are text"]),
    ],
)
def test_ids_of_other_types(
    tmp_path: Path, of_image: Callable[[int], Any], of_class: Callable[[int], Any], reasons: list[str]
) -> None:
    found = opened(write(tmp_path, small(), ids(of_image, of_class)))
    usual = opened(write(tmp_path / "usual", small()))
    names = [
        [[split.classes[one["category_id"]] for one in record["annotations"]] for record in split.records]
        for split in (found, usual)
    ]
    assert names[0] == names[1]
    assert [[one["bbox"] for one in r["annotations"]] for r in found.records] == [
        [one["bbox"] for one in r["annotations"]] for r in usual.records
    ]
    assert all(any(reason in each for each in found.account.converted) for reason in reasons)
    assert len(COCO_of(found).getAnnIds(imgIds=[found.records[0]["image_id"]])) == 2


def COCO_of(split: DetectionSet) -> COCO:
    """The ground truth as pycocotools reads it."""
    index = COCO()
    index.dataset = split.truth
    index.createIndex()
    return index


@pytest.mark.parametrize("change", [
    lambda d: d["images"][0].update(id="x", file_name="a.png") or d["images"][1].update(id="x"),
    lambda d: d["images"][0].update(id="x"),
])  # fmt: skip
def test_text_ids_that_fit_nothing_are_refused(tmp_path: Path, change: Callable[[Document], object]) -> None:
    with pytest.raises(UserError, match=r"instances_val2017\.json"):
        opened(write(tmp_path, small(), changed(change)))


def test_sizes_crowds_and_names_of_other_types(tmp_path: Path) -> None:
    document = small()
    document["images"][0].update(width="40", height=30.0)
    document["annotations"][0]["iscrowd"] = "0"
    document["annotations"][1]["iscrowd"] = False
    document["categories"][0]["name"] = 7
    document["categories"][1]["name"] = " ball "
    found = opened(write(tmp_path, small(), document))
    assert found.classes == ("ball", "7")
    assert (found.records[0]["width"], found.records[0]["height"]) == (40, 30)
    assert sorted(found.account.converted.values()) == [2, 3]


def test_a_missing_box_is_that_of_the_mask(tmp_path: Path) -> None:
    document = small()
    document["annotations"][0].pop("bbox")
    document["annotations"][1]["bbox"] = []
    document["annotations"][2].update(
        bbox=None, iscrowd=1, segmentation={"size": [30, 40], "counts": [30, 9, 21, 9, 1131]}
    )
    found = opened(write(tmp_path, small(), document))
    assert [one["bbox"] for record in found.records for one in record["annotations"]] == [
        [1, 2, 10, 10], [5, 5, 20, 20], [1, 0, 2, 9]
    ]  # fmt: skip
    assert found.account.converted["objects: without bbox, taken from the mask"] == 3
    document["annotations"][0]["segmentation"] = None
    with pytest.raises(UserError, match="bbox"):
        opened(write(tmp_path / "none", small(), document))


SQUARE = [1, 2, 11, 2, 11, 12, 1, 12]
POINTS = [[1, 2], [11, 2], [11, 12], [1, 12]]


@pytest.mark.parametrize("form", [SQUARE, POINTS, [POINTS], [SQUARE]])
def test_polygons_as_flat_lists_and_points(tmp_path: Path, form: list[Any]) -> None:
    document = changed(lambda d: d["annotations"][0].update(segmentation=form, area="100.0"))
    found = opened(write(tmp_path, small(), document), masks=True)
    assert found.records[0]["annotations"][0]["segmentation"] == [SQUARE]
    assert COCO_of(found).annToMask(found.truth["annotations"][0]).sum() == 100
    assert (found.account.converted.get("objects: polygons written as points or as one flat list") == 1) == (
        form != [SQUARE]
    )


def test_boxes_as_shares_of_the_image_are_refused(tmp_path: Path) -> None:
    def share(document: Document) -> None:
        for one in document["annotations"]:
            one["bbox"] = [value / 40 for value in one["bbox"]]

    with pytest.raises(UserError, match="0 … 1"):
        opened(write(tmp_path, small(), changed(share)))


def test_the_digest_is_of_the_images_too(tmp_path: Path) -> None:
    first = opened(write(tmp_path / "a", small()))
    assert first.digest.endswith(":content")
    moved_elsewhere = opened(Path(shutil.copytree(tmp_path / "a", tmp_path / "b")))
    assert moved_elsewhere.digest == first.digest
    image = tmp_path / "b/val2017/a.png"
    image.write_bytes(image.read_bytes()[:-1] + b"\0")
    assert open_coco(tmp_path / "b", "val", False, "polygon", 0.0).digest != first.digest


def test_damaged_documents_still_end_in_a_sentence(tmp_path: Path) -> None:
    for text in (json.dumps({"images": 3}), json.dumps({"images": [3], "categories": [[]], "annotations": [None]})):
        root = write(tmp_path, small())
        (root / JSON.format("val")).write_text(text)
        with pytest.raises(UserError):
            opened(root)
