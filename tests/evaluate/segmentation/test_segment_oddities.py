"""Odd but legitimate segmentation data: endings, hidden files, number formats, labels from 0, orientation tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from sklearn.metrics import confusion_matrix

from core.errors import UserError
from evaluate.segmentation.data.checks import check_apart, check_split, label_facts, may_count_from_zero
from evaluate.segmentation.data.labels import read_label
from evaluate.segmentation.data.layouts import Samples, find_root, list_split
from evaluate.segmentation.plan import data_lines
from evaluate.segmentation.protocol import SegmentDataConfig

ADE = SegmentDataConfig("ade20k", classes=3)
TAG = 0x0112


def _save(file: Path, pixels: np.ndarray, **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(file, **options)
    return file


def _image(file: Path, **options: Any) -> Path:
    return _save(file, np.full((6, 8, 3), 90, np.uint8), **options)


def _label(file: Path, fill: int = 1) -> Path:
    return _save(file, np.full((6, 8), fill, np.uint8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """ADE20K's layout: images a … d in `training`, e in `validation`."""
    for split, names in (("training", "abcd"), ("validation", "e")):
        for name in names:
            _image(tmp_path / f"images/{split}/{name}.jpg")
            _label(tmp_path / f"annotations/{split}/{name}.png")
    return tmp_path


def _train(root: Path) -> Samples:
    return list_split(root, "ade20k", "train")


def _names(samples: Samples) -> list[str]:
    return [image.name for image, _ in samples.pairs]


# Files


def test_every_image_ending_is_used(root: Path) -> None:
    folder, kinds = root / "images/training", {".PNG": "PNG", ".jpeg": "JPEG", ".tif": "TIFF", ".webp": "WEBP"}
    for number, (ending, kind) in enumerate(kinds.items()):
        _image(folder / f"x{number}{ending}", format=kind)
        _label(root / f"annotations/training/x{number}.png")
    samples = _train(root)
    on_disk = sorted(file.name for file in folder.iterdir() if PIL.Image.open(file).size == (8, 6))
    assert _names(samples) == on_disk
    assert len(on_disk) == 8
    assert samples.notes == {}
    for image, label in samples.pairs:
        assert image.stem == label.stem


def test_used_and_reported_files_are_all_files(root: Path) -> None:
    folder, labels = root / "images/training", root / "annotations/training"
    for name in (".DS_Store", "._a.jpg", "Thumbs.db", "notes.txt", "more"):
        (folder / name).write_bytes(b"x")
    _image(folder / ".ipynb_checkpoints/a-checkpoint.jpg")
    _label(labels / "z.png")
    (labels / "map.json").write_text("{}")
    samples = _train(root)
    assert _names(samples) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    counts = samples.notes
    assert sum(count for reason, count in counts.items() if reason.startswith("hidden files")) == 2
    assert sum(count for reason, count in counts.items() if reason.startswith("hidden folders")) == 1
    assert {reason.split("ending ")[1].split(",")[0] for reason in counts if "ending" in reason} == {
        ".db", ".txt", "(none)", ".json",
    }  # fmt: skip
    assert sum(count for reason, count in counts.items() if reason.startswith("labels without an image")) == 1
    below = [file for place in (folder, labels) for file in place.rglob("*") if file.is_file()]
    assert 2 * len(samples.pairs) + sum(counts.values()) == len(below)  # a hidden folder counts as its only file


def test_two_images_of_one_name_are_ambiguous(root: Path) -> None:
    _image(root / "images/training/a.png")
    with pytest.raises(UserError, match=r"a\.jpg.*a\.png"):
        _train(root)


def test_labels_are_matched_whatever_their_case(root: Path) -> None:
    labels = root / "annotations/training"
    (labels / "a.png").rename(labels / "A.PNG")
    (labels / "b.png").rename(labels / "b.PNG")
    samples = _train(root)
    assert [label.name for _, label in samples.pairs] == ["A.PNG", "b.PNG", "c.png", "d.png"]
    assert list(samples.notes.values()) == [1]
    _image(root / "images/training/A.jpg")
    (labels / "A.PNG").rename(labels / "a.png")
    with pytest.raises(UserError, match=r"A\.jpg"):  # two images, one label
        _train(root)


def test_linked_folders_are_followed_once(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("elsewhere")
    _image(other / "more.jpg")
    (root / "images/training/extra").symlink_to(other)
    (root / "images/training/again").symlink_to(root / "images/training")
    _label(root / "annotations/training/extra/more.png")
    samples = _train(root)
    assert [image.name for image, _ in samples.pairs] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "more.jpg"]
    assert list(samples.notes.values()) == [1]


@pytest.mark.parametrize("name", ["val", "valid"])
def test_splits_of_other_tools(root: Path, name: str) -> None:
    for above in ("images", "annotations"):
        (root / above / "training").rename(root / above / "train")
        (root / above / "validation").rename(root / above / name)
    assert find_root(SegmentDataConfig("ade20k", str(root), 3)) == root
    assert (len(_train(root).pairs), len(list_split(root, "ade20k", "val").pairs)) == (4, 1)


def test_cityscapes_with_other_files(tmp_path: Path) -> None:
    stem = "ulm/ulm_000000_000019"
    _image(tmp_path / f"leftImg8bit/train/{stem}_leftImg8bit.jpg")
    _image(tmp_path / "leftImg8bit/train/ulm/overview.png")
    for kind in ("labelTrainIds", "labelIds", "color"):
        _label(tmp_path / f"gtFine/train/{stem}_gtFine_{kind}.png")
    samples = list_split(tmp_path, "cityscapes", "train")
    assert [(image.name, label.name) for image, label in samples.pairs] == [
        ("ulm_000000_000019_leftImg8bit.jpg", "ulm_000000_000019_gtFine_labelTrainIds.png")
    ]
    assert [(count, "_leftImg8bit" in reason) for reason, count in samples.notes.items()] == [(1, True)]


def test_voc_with_png_images_and_names_in_both_lists(tmp_path: Path) -> None:
    for name in "abc":
        _image(tmp_path / f"JPEGImages/{name}.png")
        _label(tmp_path / f"SegmentationClass/{name}.png")
        _label(tmp_path / f"SegmentationClassAug/{name}.png")
    for name, text in (("train", "a\n"), ("aug", "a\nb\n"), ("val", "c\n")):
        (tmp_path / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"ImageSets/Segmentation/{name}.txt").write_text(text)
    samples = list_split(tmp_path, "voc12aug", "train")
    assert _names(samples) == ["a.png", "a.png", "b.png"]
    assert [(count, "aug.txt" in reason) for reason, count in samples.notes.items()] == [(1, True)]
    check_apart({"train": samples, "val": list_split(tmp_path, "voc12aug", "val")})


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
    _save(labels / "a.png", np.full((6, 8), 2, np.uint16))
    found = check_split(_train(root).pairs, ADE, "training", whole=False)
    assert found.counts.tolist() == [3 * 48, 48, 0]
    assert [(count, "I;16" in reason) for reason, count in found.notes.items()] == [(1, True)]
    _save(labels / "a.png", np.full((6, 8), 256, np.uint16))  # 0 for a reader that drops the upper byte
    with pytest.raises(UserError, match=r"a\.png.*label 256\b"):
        check_split(_train(root).pairs, ADE, "training", whole=False)


def test_palettes_must_agree(root: Path) -> None:
    labels = root / "annotations/training"
    for name in "ab":
        _image(root / f"images/training/{name}.jpg")
        picture = PIL.Image.fromarray(np.full((6, 8), 1, np.uint8), "P")
        picture.putpalette(VOC_COLOURS)
        picture.save(labels / f"{name}.png")
    found = check_split(_train(root).pairs, ADE, "training", whole=False)
    assert found.counts.tolist() == [4 * 48, 0, 0]
    assert list(found.notes.values()) == [2]
    picture.putpalette(VOC_COLOURS[3:])
    picture.save(labels / "b.png")
    with pytest.raises(UserError, match=r"a\.png.*b\.png.*palette"):
        check_split(_train(root).pairs, ADE, "training", whole=False)


def test_a_compressed_grey_label_is_not_taken_for_class_numbers(root: Path) -> None:
    picture = PIL.Image.fromarray(np.zeros((6, 8), np.uint8), "P")
    picture.putpalette([3, 3, 3, 1, 1, 1])  # position 0 shows the grey value 3
    picture.save(root / "annotations/training/c.png")
    assert (np.asarray(PIL.Image.open(root / "annotations/training/c.png").convert("L")) == 3).all()
    with pytest.raises(UserError, match=r"c\.png.*palette"):
        check_split(_train(root).pairs, ADE, "training", whole=False)


# Sizes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tags(root: Path, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[TAG] = orientation
    image = _image(root / "images/training/b.jpg", exif=exif)
    upright = PIL.ImageOps.exif_transpose(PIL.Image.open(image)).size
    found = check_split(_train(root).pairs, ADE, "training", whole=False)
    assert sum(found.notes.values()) == (orientation != 1)
    _save(root / "annotations/training/b.png", np.ones(upright[::-1], np.uint8))
    if upright == (8, 6):
        check_split(_train(root).pairs, ADE, "training", whole=False)
        return
    with pytest.raises(UserError, match=r"b\.jpg is 8×6 .*b\.png 6×8 .*orientation"):
        check_split(_train(root).pairs, ADE, "training", whole=False)


def test_a_damaged_tag_does_not_matter(root: Path) -> None:
    for tag in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        _image(root / "images/training/b.jpg", exif=tag)
        assert check_split(_train(root).pairs, ADE, "training", whole=False).skipped == ()


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
    facts = {split: {"labels": label_facts(found, config, ("x", "y", "z")), "notes": found.notes}
             for split, found in checked.items()}  # fmt: skip
    return str(data_lines(facts, may_count_from_zero(checked, config)))


def test_labels_from_zero_are_noticed_before_training(root: Path) -> None:
    labels = _from_zero(root)
    checked = _checked(root, ADE)
    assert may_count_from_zero(checked, ADE)
    train = np.concatenate([labels[name] for name in "abcd"])
    facts = label_facts(checked["train"], ADE, ("x", "y", "z"))
    assert facts == {"first": 1, "pixels": train.size, "ignored": {"0": int((train == 0).sum())}, "absent": ["z"]}
    said = _lines(checked, ADE)
    assert "data.first_label=0" in said
    assert f"{100 * (train == 0).mean():.1f} % (label 0)" in said
    stated = SegmentDataConfig("ade20k", classes=3, first_label=1)
    assert "first_label" not in _lines(_checked(root, stated), stated)


def test_labels_from_zero_are_counted_when_asked(root: Path) -> None:
    labels = _from_zero(root)
    config = SegmentDataConfig("ade20k", classes=3, first_label=0)
    checked = _checked(root, config)
    train = np.concatenate([labels[name].ravel() for name in "abcd"])
    assert checked["train"].counts.tolist() == confusion_matrix(train, train).diagonal().tolist()
    assert label_facts(checked["train"], config, ("x", "y", "z")) == {
        "first": 0, "pixels": train.size, "ignored": {}, "absent": [],
    }  # fmt: skip
    assert "first_label" not in _lines(checked, config)
    _label(root / "annotations/training/a.png", 3)
    with pytest.raises(UserError, match=r"a\.png.*label 3\b.*0 … 2 .*data\.first_label=1"):
        _checked(root, config)


def test_labels_from_one_raise_no_doubt(root: Path) -> None:
    for name in "abcd":
        _label(root / f"annotations/training/{name}.png", 3)
    _label(root / "annotations/validation/e.png", 1)
    assert not may_count_from_zero(_checked(root, ADE), ADE)  # no 0
    _save(root / "annotations/training/a.png", np.tile(np.array([0, 3], np.uint8), (6, 4)))
    assert not may_count_from_zero(_checked(root, ADE), ADE)  # the last class occurs


@pytest.mark.parametrize("layout", ["scenes", "voc12aug", "cityscapes"])
def test_layouts_that_fix_their_labels(layout: Any) -> None:
    classes = {"scenes": 9, "voc12aug": 21, "cityscapes": 19}[layout]
    with pytest.raises(ValueError, match="first_label"):
        SegmentDataConfig(layout, classes=classes, first_label=0)
    assert SegmentDataConfig(layout, classes=classes).reduce_zero_label == (layout == "scenes")
