"""Pascal VOC: what is read, one sentence for what is wrong, and numbers counted by hand."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pytest

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from core.errors import UserError
from evaluate.detection.data.voc_data import CLASSES, VocObject, open_voc
from evaluate.detection.metrics.inference import Detections
from evaluate.detection.metrics.voc_metrics import voc_metrics


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
    (tmp_path / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_text("2007_test\n")
    ours = open_voc(tmp_path, "val", 0.0).records[0]
    for key in ("file_name", "image_id", "height", "width"):
        assert ours[key] == theirs[key]
    (one,), (other,) = ours["annotations"], theirs["annotations"]
    assert BoxMode.convert(one["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) == other["bbox"]
    assert one["category_id"] == other["category_id"]


def test_what_is_wrong_with_voc_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trainval\.txt.*--data voc:ROOT.*ROOT/VOC2007"):
        open_voc(tmp_path, "train", 0.0)
    with pytest.raises(UserError, match=r"object 0 .*'unicorn'.*VOC"):
        open_voc(write_voc(tmp_path, name="unicorn"), "train", 0.0)
    with pytest.raises(UserError, match=r"object 0: box .*outside.*40×30"):
        open_voc(write_voc(tmp_path, box=(41, 1, 60, 30)), "train", 0.0)
    with pytest.raises(UserError, match=r"2007_trainval\.xml"):
        open_voc(write_voc(tmp_path, objects="<object>"), "train", 0.0)
    write_voc(tmp_path)
    (tmp_path / "VOC2007" / "JPEGImages" / "2007_test.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 1 .*2007_test\.jpg"):
        open_voc(tmp_path, "val", 0.0)
    (tmp_path / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_text("")
    with pytest.raises(UserError, match=r"test\.txt"):
        open_voc(tmp_path, "val", 0.0)


def test_vocs_numbers(tmp_path: Path) -> None:
    """One dog of 20 × 30 pixels. A guess of 20 × 24 overlaps by 0.8: right at 0.5 … 0.75, wrong from 0.85 on."""
    val = open_voc(write_voc(tmp_path), "val", 0.0)
    dog = {"image_id": "2007_test", "category_id": val.classes.index("dog"), "score": 0.9}
    exact = voc_metrics(val, Detections([{**dog, "bbox": [0, 0, 20, 30]}], ["2007_test"], []))
    # The other 19 classes have no object: Detectron2 counts them as zero.
    assert exact == {"box_ap": 5.0, "box_ap50": 5.0, "box_ap75": 5.0}
    close = voc_metrics(val, Detections([{**dog, "bbox": [0, 0, 20, 24]}], ["2007_test"], []))
    assert close["box_ap50"] == close["box_ap75"] == 5.0
    assert close["box_ap"] in (pytest.approx(5.0 * 6 / 10), pytest.approx(5.0 * 7 / 10))
    assert voc_metrics(val, None)["box_ap"] == 0.0


def bare(name: str, box: tuple[float, ...], more: str = "") -> str:
    """An object with as little in it as VOC's own reader needs."""
    corners = "".join(f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def test_decimals_and_missing_marks_are_read_and_measured(tmp_path: Path) -> None:
    """Neither pose nor truncated nor difficult, and decimals, as some of VOC 2012's have them."""
    val = open_voc(write_voc(tmp_path, objects=bare("dog", (1, 1, 20.4, 29.6))), "val", 0.0)
    assert val.records[0]["annotations"][0]["bbox"] == pytest.approx([0, 0, 20.4, 29.6])
    assert val.truth == {"2007_test": [VocObject("dog", False, (1, 1, 20, 30))]}
    dog = {"image_id": "2007_test", "category_id": CLASSES.index("dog"), "score": 0.9, "bbox": [0, 0, 20, 30]}
    assert voc_metrics(val, Detections([dog], ["2007_test"], []))["box_ap"] == 5.0


def test_what_is_difficult_is_neither_hit_nor_miss(tmp_path: Path) -> None:
    hard = bare("dog", (21, 1, 40, 30), "<difficult>1</difficult>")
    val = open_voc(write_voc(tmp_path, objects=bare("dog", (1, 1, 20, 30)) + hard), "val", 0.0)
    assert [thing.difficult for thing in val.truth["2007_test"]] == [False, True]
    dog = {"image_id": "2007_test", "category_id": CLASSES.index("dog"), "score": 0.9, "bbox": [0, 0, 20, 30]}
    both = [dog, {**dog, "score": 0.95, "bbox": [20, 0, 20, 30]}]
    for found in ([dog], both):
        assert voc_metrics(val, Detections(found, ["2007_test"], []))["box_ap"] == 5.0


def two_test_images(root: Path) -> Path:
    write_voc(root)
    part = root / "VOC2007"
    (part / "ImageSets" / "Main" / "test.txt").write_text("2007_test\nsecond\n")
    for folder, ending in (("Annotations", "xml"), ("JPEGImages", "jpg")):
        (part / folder / f"second.{ending}").write_bytes((part / folder / f"2007_test.{ending}").read_bytes())
    return root


def test_images_and_objects_that_were_left_out_do_not_count(tmp_path: Path) -> None:
    """One dog is found in the first of two images: half of them, or all where the second can't be decoded."""
    val = open_voc(two_test_images(tmp_path), "val", 0.0)
    dog = {"image_id": "2007_test", "category_id": CLASSES.index("dog"), "score": 0.9, "bbox": [0, 0, 20, 30]}
    half = voc_metrics(val, Detections([dog], ["2007_test", "second"], []))
    assert half["box_ap50"] == pytest.approx(5 * 6 / 11, abs=1e-4)  # recall 0.5 passes six of eleven points
    assert voc_metrics(val, Detections([dog], ["2007_test"], ["second"]))["box_ap50"] == 5.0
    outside = tmp_path / "VOC2007" / "Annotations" / "second.xml"
    outside.write_text(outside.read_text().replace("<xmin>1", "<xmin>100").replace("<xmax>20", "<xmax>200"))
    val = open_voc(tmp_path, "val", 0.5)
    assert "second.xml, object 0: box" in val.excluded[0]
    assert voc_metrics(val, Detections([dog], ["2007_test", "second"], []))["box_ap50"] == 5.0


def test_numbers_are_those_that_detectron2_counts_on_vocs_folder(tmp_path: Path) -> None:
    import torch
    from detectron2.data import MetadataCatalog
    from detectron2.evaluation import PascalVOCDetectionEvaluator
    from detectron2.structures import Boxes, Instances

    root = two_test_images(tmp_path)
    found = [
        {"image_id": image, "category_id": CLASSES.index(name), "score": score, "bbox": box}
        for image, name, score, box in (
            ("2007_test", "dog", 0.9, [1, 2, 18, 27]),
            ("second", "dog", 0.8, [9, 9, 20, 20]),
            ("second", "cat", 0.7, [0, 0, 20, 30]),
            ("second", "dog", 0.6, [0, 1, 20, 28]),
        )
    ]
    MetadataCatalog.get("voc here").set(
        dirname=str(root / "VOC2007"), split="test", year=2007, thing_classes=list(CLASSES)
    )
    evaluator = PascalVOCDetectionEvaluator("voc here")
    evaluator.reset()
    for one in found:
        instances = Instances((30, 40))
        left, top, width, height = one["bbox"]
        instances.pred_boxes = Boxes(torch.tensor([[left, top, left + width, top + height]]))
        instances.scores, instances.pred_classes = torch.tensor([one["score"]]), torch.tensor([one["category_id"]])
        evaluator.process([{"image_id": one["image_id"]}], [{"instances": instances}])
    theirs = evaluator.evaluate()["bbox"]
    ours = voc_metrics(open_voc(root, "val", 0.0), Detections(found, ["2007_test", "second"], []))
    assert 0 < theirs["AP"] < 5
    assert ours == {f"box_{key.lower()}": pytest.approx(value, abs=1e-4) for key, value in theirs.items()}


def test_a_number_that_is_none_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evaluate.detection.metrics import voc_metrics as module

    numbers = {"bbox": {"AP": float("nan"), "AP50": 1.0}}
    monkeypatch.setattr(module.PascalVOCDetectionEvaluator, "evaluate", lambda _: numbers)
    assert voc_metrics(open_voc(write_voc(tmp_path), "val", 0.0), None) == {"box_ap": None, "box_ap50": 1.0}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (b"2007_test\n\xff\xfe\n", r"test\.txt"),
        (b"2007_test\n2007_test\n", r"test\.txt.*\b2007_test\b"),
        (b"../2007_test\n", r"test\.txt.*'\.\./2007_test'"),
    ],
)
def test_lists_that_are_none_are_refused(tmp_path: Path, names: bytes, message: str) -> None:
    write_voc(tmp_path)
    (tmp_path / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_bytes(names)
    with pytest.raises(UserError, match=message):
        open_voc(tmp_path, "val", 0.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<annotation>\xff</annotation>", r"2007_test\.xml"),
        (b"<?xml version='1.0' encoding='nonsense'?><a/>", r"2007_test\.xml"),
        (b"<annotation><size><width>4.5</width></size></annotation>", r"2007_test\.xml"),
    ],
)
def test_annotations_that_are_none_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    write_voc(tmp_path)
    (tmp_path / "VOC2007" / "Annotations" / "2007_test.xml").write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_voc(tmp_path, "val", 0.0)


def test_a_corner_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"object 0: box .*nan.*finite"):
        open_voc(write_voc(tmp_path, objects=bare("dog", (1, 1, float("nan"), 30))), "val", 0.9)
