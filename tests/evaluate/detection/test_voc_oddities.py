"""VOC's layout as labelling tools write it, and a test set without an object that counts."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

import warnings
from pathlib import Path

import PIL.Image
import pytest

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from core.config import load_config
from core.errors import UserError
from evaluate.detection.data.datasets import open_splits
from evaluate.detection.data.records import DetectionSet
from evaluate.detection.data.voc_data import CLASSES, open_voc
from evaluate.detection.metrics.inference import Detections
from evaluate.detection.metrics.voc_metrics import voc_metrics
from evaluate.detection.probe import find_protocol
from evaluate.detection.settings import DetectionConfig
from tests.evaluate.detection.test_voc import bare, write_voc

DOG = {"image_id": "2007_test", "category_id": CLASSES.index("dog"), "score": 0.9, "bbox": [0, 0, 20, 30]}


def rewritten(root: Path, old: str, new: str) -> Path:
    """VOC's layout with `old` replaced in each annotation."""
    for file in write_voc(root).glob("*/Annotations/*.xml"):
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
    return root


SIZE = "<size><width>40</width><height>30</height></size>"


@pytest.mark.parametrize(
    "size",
    [
        "",
        "<size><width>0</width><height>0</height></size>",
        "<size><width/><height/></size>",
        "<size><width>40</width></size>",
    ],
)
def test_an_absent_size_is_the_images(tmp_path: Path, size: str) -> None:
    val = open_voc(rewritten(tmp_path, SIZE, size), "val", 0.0)
    assert [(record["width"], record["height"]) for record in val.records] == [(40, 30)]
    assert val.account.converted == {"images: without a size, taken from the image": 1}
    assert voc_metrics(val, Detections([DOG], ["2007_test"], []))["box_ap50"] == 5.0


def test_an_absent_size_and_an_unreadable_image_are_excluded(tmp_path: Path) -> None:
    root = rewritten(tmp_path, SIZE, "")
    (root / "VOC2007" / "JPEGImages" / "2007_test.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match=r"2007_test\.jpg"):
        open_voc(root, "val", 0.9)


def test_blanks_and_a_byte_order_mark_are_stripped(tmp_path: Path) -> None:
    root = rewritten(tmp_path, "<name>dog</name>", "<name> dog\n</name>")
    plain = open_voc(write_voc(tmp_path / "plain"), "val", 0.0)
    (root / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_bytes(b"\xef\xbb\xbf2007_test \r\n\r\n")
    val = open_voc(root, "val", 0.0)
    assert [record["annotations"] for record in val.records] == [record["annotations"] for record in plain.records]
    assert val.truth == plain.truth


def test_names_with_blanks_and_other_endings_are_found(tmp_path: Path) -> None:
    part = write_voc(tmp_path) / "VOC2007"
    (part / "ImageSets" / "Main" / "test.txt").write_text("my image\n")
    (part / "Annotations" / "my image.xml").write_bytes((part / "Annotations" / "2007_test.xml").read_bytes())
    PIL.Image.new("RGB", (40, 30)).save(part / "JPEGImages" / "my image.PNG")
    assert [record["image_id"] for record in open_voc(tmp_path, "val", 0.0).records] == ["my image"]
    PIL.Image.new("RGB", (40, 30)).save(part / "JPEGImages" / "my image.webp")
    with pytest.raises(UserError, match=r"my image\.PNG and my image\.webp"):
        open_voc(tmp_path, "val", 0.0)
    PIL.Image.new("RGB", (40, 30)).save(part / "JPEGImages" / "my image.jpg")
    assert open_voc(tmp_path, "val", 0.0).records[0]["file_name"].endswith("my image.jpg")


def test_boxes_over_the_border_are_kept_and_counted(tmp_path: Path) -> None:
    val = open_voc(write_voc(tmp_path, box=(1, 1, 46, 30)), "val", 0.0)
    assert (val.records[0]["annotations"][0]["bbox"], val.excluded) == ([0, 0, 46, 30], ())
    assert list(val.account.converted.values()) == [1]
    assert val.truth["2007_test"][0].corners == (1, 1, 46, 30)


def val_of(root: Path) -> DetectionSet:
    config = load_config(DetectionConfig, find_protocol("voc_frcnn_r50_c4_24k"), [f"data.source=voc:{root}"])
    return open_splits(config)[1]


def test_difficult_objects_alone_give_no_number_and_no_warning(tmp_path: Path) -> None:
    write_voc(tmp_path, objects=bare("dog", (1, 1, 20, 30), "<difficult> 1 </difficult>"))
    val = val_of(tmp_path)
    assert val.account.notes == ("no object counts, so there is no average precision",)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        metrics = voc_metrics(val, Detections([DOG], ["2007_test"], []))
    assert metrics == {"box_ap": None, "box_ap50": None, "box_ap75": None}


def test_classes_without_a_test_object_are_noted(tmp_path: Path) -> None:
    (note,) = val_of(write_voc(tmp_path)).account.notes
    assert note.startswith("19 of 20 classes")


def test_sizes_that_disagree_are_found_before_training(tmp_path: Path) -> None:
    """Width and height swapped, as some tools write them."""
    root = rewritten(tmp_path, SIZE, "<size><width>30</width><height>40</height></size>")
    with pytest.raises(UserError, match=r"2007_trainval\.jpg.*40×30.*30×40"):
        val_of(root)


@pytest.mark.parametrize(
    ("text", "counts"), [("1", False), ("true", False), ("True", False), ("0", True), ("Unspecified", True), ("", True)]
)
def test_difficult_as_other_tools_write_it(tmp_path: Path, text: str, counts: bool) -> None:
    old = next(write_voc(tmp_path).glob("VOC2007/Annotations/*_test.xml")).read_text()
    flag = "<difficult>" + old.partition("<difficult>")[2].partition("<")[0] + "</difficult>"
    val = open_voc(rewritten(tmp_path, flag, f"<difficult>{text}</difficult>"), "val", 0.0)
    assert {one.difficult for objects in val.truth.values() for one in objects} == {not counts}


def test_a_difficult_that_says_nothing_is_refused(tmp_path: Path) -> None:
    old = next(write_voc(tmp_path).glob("VOC2007/Annotations/*_test.xml")).read_text()
    flag = "<difficult>" + old.partition("<difficult>")[2].partition("<")[0] + "</difficult>"
    with pytest.raises(UserError, match="difficult"):
        open_voc(rewritten(tmp_path, flag, "<difficult>maybe</difficult>"), "val", 0.0)


def test_names_with_folders_and_classes_in_another_case(tmp_path: Path) -> None:
    root = write_voc(tmp_path)
    usual = open_voc(root, "val", 0.0)
    for folder in ("Annotations", "JPEGImages"):
        (root / "VOC2007" / folder / "sub a").mkdir()
        for file in (root / "VOC2007" / folder).glob("2007_test.*"):
            file.rename(file.parent / "sub a" / file.name)
    listed = root / "VOC2007/ImageSets/Main/test.txt"
    listed.write_text(listed.read_text().replace("2007_test", "sub a/2007_test"))
    (xml,) = (root / "VOC2007/Annotations/sub a").glob("*.xml")
    xml.write_text(xml.read_text().replace("<name>dog</name>", "<name>Dog</name>"))
    val = open_voc(root, "val", 0.0)
    assert [record["annotations"] for record in val.records] == [record["annotations"] for record in usual.records]
    assert [record["image_id"] for record in val.records] == ["sub a/2007_test"]
    assert val.account.converted["objects: class name in another case than VOC's"] > 0
    listed.write_text("../2007_test\n")
    with pytest.raises(UserError, match=r"\.\./2007_test"):
        open_voc(root, "val", 0.0)
