"""Label files: number formats, palettes, orientation tags, classes from 0; against Pillow, the engine, scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from sklearn.metrics import confusion_matrix

from core.errors import UserError
from evaluate.segmentation.data.checks import check_split, label_facts, may_count_from_zero
from evaluate.segmentation.data.labels import read_label
from evaluate.segmentation.data.layouts import list_split
from evaluate.segmentation.plan import data_lines
from evaluate.segmentation.protocol import SegmentDataConfig
from tests.evaluate.segmentation.five_samples import ADE, image, label, save, train, write_samples

TAG = 0x0112


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_samples(tmp_path)


# Numbers in label files

CLASSES = np.array([[0, 1, 2, 3], [3, 2, 1, 255]], np.uint8)


def _engine(file: Path, reduce_zero_label: bool) -> np.ndarray:
    """The same file by MMSegmentation's own loader."""
    pytest.importorskip("mmseg", reason="needs MMSegmentation", exc_type=ImportError)
    from mmseg.datasets.transforms import LoadAnnotations

    found = {"seg_map_path": str(file), "reduce_zero_label": reduce_zero_label, "seg_fields": []}
    return LoadAnnotations()(found)["gt_seg_map"]


def _palette(file: Path, colours: list[int]) -> Path:
    picture = PIL.Image.fromarray(CLASSES, "P")
    picture.putpalette(colours)
    picture.save(file)
    return file


VOC_COLOURS = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0] + [224, 224, 192] * 252


@pytest.mark.parametrize("kind", ["L", "P", "I;16", "I", "1"])
def test_number_formats_are_read_as_the_engine_reads_them(tmp_path: Path, kind: str) -> None:
    file = tmp_path / ("x.png" if kind != "I" else "x.tif")
    if kind == "P":
        _palette(file, VOC_COLOURS)
    elif kind == "1":
        PIL.Image.fromarray(CLASSES == 1).save(file)
    else:
        PIL.Image.fromarray(CLASSES.astype({"L": np.uint8, "I;16": np.uint16, "I": np.int32}[kind])).save(file)
    for first in (0, 1):
        config = SegmentDataConfig("ade20k", classes=4, first_label=first)  # type: ignore[arg-type]
        found = read_label(file, config)
        assert found.dtype == np.uint8
        assert np.array_equal(found, _engine(file, bool(first)))
    stored = CLASSES if kind != "1" else (CLASSES == 1)
    assert np.array_equal(read_label(file, SegmentDataConfig("ade20k", classes=4, first_label=0)), stored)


def test_other_number_formats_are_reported(root: Path) -> None:
    labels = root / "annotations/training"
    save(labels / "a.png", np.full((6, 8), 2, np.uint16))
    found = check_split(train(root).pairs, ADE, "training", whole=False)
    assert found.counts.tolist() == [3 * 48, 48, 0]
    assert [(count, "I;16" in reason) for reason, count in found.account.converted.items()] == [(1, True)]
    save(labels / "a.png", np.full((6, 8), 256, np.uint16))  # 0 for a reader that drops the upper byte
    with pytest.raises(UserError, match=r"a\.png.*label 256\b"):
        check_split(train(root).pairs, ADE, "training", whole=False)


def test_palettes_must_agree(root: Path) -> None:
    labels = root / "annotations/training"
    for name in "ab":
        image(root / f"images/training/{name}.jpg")
        picture = PIL.Image.fromarray(np.full((6, 8), 1, np.uint8), "P")
        picture.putpalette(VOC_COLOURS)
        picture.save(labels / f"{name}.png")
    found = check_split(train(root).pairs, ADE, "training", whole=False)
    assert found.counts.tolist() == [4 * 48, 0, 0]
    assert list(found.account.converted.values()) == [2]
    picture.putpalette(VOC_COLOURS[3:])
    picture.save(labels / "b.png")
    with pytest.raises(UserError, match=r"a\.png.*b\.png.*palette"):
        check_split(train(root).pairs, ADE, "training", whole=False)


def test_a_compressed_grey_label_is_not_taken_for_class_numbers(root: Path) -> None:
    picture = PIL.Image.fromarray(np.zeros((6, 8), np.uint8), "P")
    picture.putpalette([3, 3, 3, 1, 1, 1])  # position 0 shows the grey value 3
    picture.save(root / "annotations/training/c.png")
    assert (np.asarray(PIL.Image.open(root / "annotations/training/c.png").convert("L")) == 3).all()
    with pytest.raises(UserError, match=r"c\.png.*palette"):
        check_split(train(root).pairs, ADE, "training", whole=False)


# Sizes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tags(root: Path, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[TAG] = orientation
    upright = PIL.ImageOps.exif_transpose(PIL.Image.open(image(root / "images/training/b.jpg", exif=exif))).size
    found = check_split(train(root).pairs, ADE, "training", whole=False)
    assert sum(found.account.converted.values()) == (orientation != 1)
    save(root / "annotations/training/b.png", np.ones(upright[::-1], np.uint8))
    if upright == (8, 6):
        check_split(train(root).pairs, ADE, "training", whole=False)
        return
    with pytest.raises(UserError, match=r"b\.jpg is 8×6 .*b\.png 6×8 .*orientation"):
        check_split(train(root).pairs, ADE, "training", whole=False)


def test_a_damaged_tag_does_not_matter(root: Path) -> None:
    for tag in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        image(root / "images/training/b.jpg", exif=tag)
        assert check_split(train(root).pairs, ADE, "training", whole=False).skipped == ()


# Labels from 0 and from 1


def _from_zero(root: Path) -> dict[str, np.ndarray]:
    """Labels 0 … 2 everywhere; gives them by name."""
    rng = np.random.default_rng(0)
    found = {}
    for file in sorted((root / "annotations").rglob("*.png")):
        found[file.stem] = rng.choice(3, (6, 8), p=[0.6, 0.2, 0.2]).astype(np.uint8)
        PIL.Image.fromarray(found[file.stem]).save(file)
    return found


def _checked(root: Path, config: SegmentDataConfig) -> dict[str, Any]:
    return {
        split: check_split(list_split(root, "ade20k", split).pairs, config, split, whole=split == "val")  # type: ignore[arg-type]
        for split in ("train", "val")
    }


def _lines(checked: dict[str, Any], config: SegmentDataConfig) -> str:
    facts = {split: {"labels": label_facts(found, config, ("x", "y", "z"))}
             for split, found in checked.items()}  # fmt: skip
    accounts = {split: found.account for split, found in checked.items()}
    return str(data_lines(facts, accounts, may_count_from_zero(checked, config)))


def test_labels_from_zero_are_noticed_before_training(root: Path) -> None:
    labels = _from_zero(root)
    checked = _checked(root, ADE)
    assert may_count_from_zero(checked, ADE)
    numbers = np.concatenate([labels[name] for name in "abcd"])
    facts = label_facts(checked["train"], ADE, ("x", "y", "z"))
    assert facts == {"first": 1, "pixels": numbers.size, "ignored": {"0": int((numbers == 0).sum())}, "absent": ["z"]}
    printed = _lines(checked, ADE)
    assert "data.first_label=0" in printed
    assert f"{100 * (numbers == 0).mean():.1f} % (label 0)" in printed
    stated = SegmentDataConfig("ade20k", classes=3, first_label=1)
    assert "first_label" not in _lines(_checked(root, stated), stated)


def test_labels_from_zero_are_counted_when_asked(root: Path) -> None:
    labels = _from_zero(root)
    config = SegmentDataConfig("ade20k", classes=3, first_label=0)
    checked = _checked(root, config)
    numbers = np.concatenate([labels[name].ravel() for name in "abcd"])
    assert checked["train"].counts.tolist() == confusion_matrix(numbers, numbers).diagonal().tolist()
    assert label_facts(checked["train"], config, ("x", "y", "z")) == {
        "first": 0, "pixels": numbers.size, "ignored": {}, "absent": [],
    }  # fmt: skip
    assert "first_label" not in _lines(checked, config)
    label(root / "annotations/training/a.png", 3)
    with pytest.raises(UserError, match=r"a\.png.*label 3\b.*0 … 2 .*data\.first_label=1"):
        _checked(root, config)


def test_labels_from_one_raise_no_doubt(root: Path) -> None:
    for name in "abcd":
        label(root / f"annotations/training/{name}.png", 3)
    label(root / "annotations/validation/e.png", 1)
    assert not may_count_from_zero(_checked(root, ADE), ADE)  # no 0
    save(root / "annotations/training/a.png", np.tile(np.array([0, 3], np.uint8), (6, 4)))
    assert not may_count_from_zero(_checked(root, ADE), ADE)  # the last class occurs


@pytest.mark.parametrize("layout", ["scenes", "voc12aug", "cityscapes"])
def test_layouts_that_fix_their_labels(layout: Any) -> None:
    classes = {"scenes": 9, "voc12aug": 21, "cityscapes": 19}[layout]
    with pytest.raises(ValueError, match="first_label"):
        SegmentDataConfig(layout, classes=classes, first_label=0)
    assert SegmentDataConfig(layout, classes=classes).reduce_zero_label == (layout == "scenes")
