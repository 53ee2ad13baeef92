"""Files of segmentation data: endings, case, hidden files, links, names of splits, other files of the layouts."""

from __future__ import annotations

from pathlib import Path

import PIL.Image
import pytest

from core.errors import UserError
from evaluate.segmentation.data.checks import check_apart
from evaluate.segmentation.data.layouts import Samples, find_root, list_split
from evaluate.segmentation.protocol import SegmentDataConfig
from tests.evaluate.segmentation.five_samples import image, label, train, write_samples


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_samples(tmp_path)


def _names(samples: Samples) -> list[str]:
    return [file.name for file, _ in samples.pairs]


def test_every_image_ending_is_used(root: Path) -> None:
    folder, kinds = root / "images/training", {".PNG": "PNG", ".jpeg": "JPEG", ".tif": "TIFF", ".webp": "WEBP"}
    for number, (ending, kind) in enumerate(kinds.items()):
        image(folder / f"x{number}{ending}", format=kind)
        label(root / f"annotations/training/x{number}.png")
    samples = train(root)
    on_disk = sorted(file.name for file in folder.iterdir() if PIL.Image.open(file).size == (8, 6))
    assert _names(samples) == on_disk
    assert len(on_disk) == 8
    assert samples.account.lines() == []
    for pixels, classes in samples.pairs:
        assert pixels.stem == classes.stem


def test_used_and_reported_files_are_all_files(root: Path) -> None:
    folder, labels = root / "images/training", root / "annotations/training"
    for name in (".DS_Store", "._a.jpg", "Thumbs.db", "notes.txt", "more"):
        (folder / name).write_bytes(b"x")
    image(folder / ".ipynb_checkpoints/a-checkpoint.jpg")
    label(labels / "z.png")
    (labels / "map.json").write_text("{}")
    samples = train(root)
    assert _names(samples) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    counts = samples.account.skipped
    endings = {reason.split()[-1] for reason in counts if "ending" in reason}
    assert endings == {".db", ".txt", "ending", ".json"}  # and none
    assert [counts["hidden files"], counts["label without an image"]] == [2, 1]
    below = [file for place in (folder, labels) for file in place.rglob("*") if file.is_file()]
    assert 2 * len(samples.pairs) + sum(counts.values()) == len(below)


def test_two_images_of_one_name_are_ambiguous(root: Path) -> None:
    image(root / "images/training/a.png")
    with pytest.raises(UserError, match=r"a\.jpg.*a\.png"):
        train(root)


def test_labels_are_matched_whatever_their_case(root: Path) -> None:
    labels = root / "annotations/training"
    (labels / "a.png").rename(labels / "A.PNG")
    (labels / "b.png").rename(labels / "b.PNG")
    samples = train(root)
    assert [classes.name for _, classes in samples.pairs] == ["A.PNG", "b.PNG", "c.png", "d.png"]
    assert [note.split()[0] for note in samples.account.notes] == ["1"]
    image(root / "images/training/A.jpg")
    (labels / "A.PNG").rename(labels / "a.png")
    with pytest.raises(UserError, match=r"A\.jpg"):  # two images, one label
        train(root)


def test_linked_folders_are_followed_once(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("elsewhere")
    image(other / "more.jpg")
    (root / "images/training/extra").symlink_to(other)
    (root / "images/training/again").symlink_to(root / "images/training")
    label(root / "annotations/training/extra/more.png")
    samples = train(root)
    assert _names(samples) == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "more.jpg"]
    assert list(samples.account.skipped.values()) == [1]
    assert [note.split()[0] for note in samples.account.notes] == ["2"]


@pytest.mark.parametrize("name", ["val", "valid"])
def test_splits_of_other_tools(root: Path, name: str) -> None:
    for above in ("images", "annotations"):
        (root / above / "training").rename(root / above / "train")
        (root / above / "validation").rename(root / above / name)
    assert find_root(SegmentDataConfig("ade20k", str(root), 3)) == root
    assert (len(train(root).pairs), len(list_split(root, "ade20k", "val").pairs)) == (4, 1)


def test_cityscapes_with_other_files(tmp_path: Path) -> None:
    stem = "ulm/ulm_000000_000019"
    image(tmp_path / f"leftImg8bit/train/{stem}_leftImg8bit.jpg")
    image(tmp_path / "leftImg8bit/train/ulm/overview.png")
    for kind in ("labelTrainIds", "labelIds", "color"):
        label(tmp_path / f"gtFine/train/{stem}_gtFine_{kind}.png")
    samples = list_split(tmp_path, "cityscapes", "train")
    assert [(pixels.name, classes.name) for pixels, classes in samples.pairs] == [
        ("ulm_000000_000019_leftImg8bit.jpg", "ulm_000000_000019_gtFine_labelTrainIds.png")
    ]
    assert [(count, "_leftImg8bit" in reason) for reason, count in samples.account.skipped.items()] == [(1, True)]


def test_voc_with_png_images_and_names_in_both_lists(tmp_path: Path) -> None:
    for name in "abc":
        image(tmp_path / f"JPEGImages/{name}.png")
        label(tmp_path / f"SegmentationClass/{name}.png")
        label(tmp_path / f"SegmentationClassAug/{name}.png")
    for name, text in (("train", "a\n"), ("aug", "a\nb\n"), ("val", "c\n")):
        (tmp_path / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"ImageSets/Segmentation/{name}.txt").write_text(text)
    samples = list_split(tmp_path, "voc12aug", "train")
    assert _names(samples) == ["a.png", "a.png", "b.png"]
    assert [(note.split()[0], "aug.txt" in note) for note in samples.account.notes] == [("1", True)]
    check_apart({"train": samples, "val": list_split(tmp_path, "voc12aug", "val")})
