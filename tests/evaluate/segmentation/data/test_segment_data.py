"""Segmentation data: the layouts, what is wrong with a user's files, and the majority class's score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from sklearn.metrics import confusion_matrix

from core.data.broken import note_broken, read_lines
from core.data.scenes.render import ScenesConfig
from core.errors import UserError
from evaluate.segmentation.data.checks import check_apart, check_split, spread
from evaluate.segmentation.data.class_names import check_class_list
from evaluate.segmentation.data.labels import majority_baseline, read_label
from evaluate.segmentation.data.layouts import Samples, find_root, list_split, split_facts
from evaluate.segmentation.protocol import SegmentDataConfig

ADE = SegmentDataConfig("ade20k", classes=5)


def _save(file: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = PIL.Image.fromarray(pixels)
    if mode == "P":
        picture = PIL.Image.fromarray(pixels, "L").convert("P")
        picture.putpalette([7, 7, 7] * 256)
    picture.save(file)


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("training", 4), ("validation", 3)):
        for number in range(count):
            _save(tmp_path / f"images/{split}/{number}.jpg", rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            _save(tmp_path / f"annotations/{split}/{number}.png", rng.integers(0, 6, (12, 16), dtype=np.uint8))
    return tmp_path


def _check(root: Path, config: SegmentDataConfig = ADE) -> None:
    root = find_root(SegmentDataConfig(config.layout, str(root), config.classes))
    check_class_list(root, config)
    pairs = {split: list_split(root, config.layout, split) for split in ("train", "val")}  # type: ignore[arg-type]
    check_apart(pairs)
    for split in pairs:
        check_split(pairs[split].pairs, config, split, whole=split == "val")


def _delete(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def _cut(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-40])


def _write(name: str, pixels: np.ndarray, mode: str | None = None) -> Callable[[Path], None]:
    return lambda root: _save(root / name, pixels, mode)


def _empty(root: Path) -> None:
    for file in (root / "images/validation").iterdir():
        file.unlink()


def _list_of_nine(root: Path) -> None:
    (root / "objectInfo150.txt").write_text("Idx\tName\n" + "".join(f"{n}\tthing\n" for n in range(9)))


_LABEL = "annotations/training/2.png"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_delete(_LABEL), r"annotations/training/2\.png.*2\.jpg"),
        (_empty, r"\bval\b.*images/validation"),
        (_write(_LABEL, np.full((12, 16), 6, np.uint8)), r"2\.png.*label 6\b.*\b5 classes.*1 … 5"),
        (_write(_LABEL, np.ones((11, 16), np.uint8)), r"2\.jpg.*16×12.*2\.png.*16×11"),
        (_write(_LABEL, np.ones((12, 16), np.uint8), "P"), r"2\.png.*palette"),
        (_write(_LABEL, np.ones((12, 16, 3), np.uint8)), r"2\.png.*mode RGB"),
        (_write(_LABEL, np.full((12, 16), 257, np.uint16)), r"2\.png.*label 257\b.*1 … 5"),
        (
            lambda root: (root / _LABEL).write_bytes(b"no image"),
            r"1 of 4 .*2\.png: ",
        ),
        (
            _cut("annotations/training/2.png"),
            r"1 of 4 .*training/2\.png: ",
        ),
        (_cut("annotations/validation/2.png"), r"1 of 3 .*validation/2\.png: "),
        (_cut("images/validation/2.jpg"), r"1 of 3 .*2\.jpg: .*truncated"),
        (_list_of_nine, r"objectInfo150\.txt.*\b9 classes.* 5\b.*data\.classes=9"),
    ],
)
def test_bad_input_is_named(ade: Path, harm: Callable[[Path], None], message: str) -> None:
    _check(ade)
    harm(ade)
    with pytest.raises(UserError, match=message) as caught:
        _check(ade)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_of_the_layout(ade: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--data /path/to/VOCdevkit/VOC2012"):
        find_root(SegmentDataConfig("voc12aug", "", 21))
    with pytest.raises(UserError, match="/nowhere"):
        find_root(SegmentDataConfig("ade20k", "/nowhere"))
    with pytest.raises(UserError, match=r"cityscapes.*leftImg8bit/train"):
        find_root(SegmentDataConfig("cityscapes", str(ade), 19))
    with pytest.raises(UserError, match="scenes"):
        find_root(SegmentDataConfig("scenes", str(ade), 9))
    assert find_root(SegmentDataConfig("ade20k", str(ade))) == ade
    ade.rename(tmp_path.parent / "ADEChallengeData2016")
    assert find_root(SegmentDataConfig("ade20k", str(tmp_path.parent))).name == "ADEChallengeData2016"


def test_voc_with_augmented_labels_and_palettes(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit/VOC2012"
    for name, folder, mode in (("a", "SegmentationClass", "P"), ("b", "SegmentationClassAug", None),
                               ("c", "SegmentationClass", "P")):  # fmt: skip
        _save(root / f"JPEGImages/{name}.jpg", np.zeros((6, 8, 3), np.uint8))
        _save(root / folder / f"{name}.png", np.full((6, 8), 20 if name != "b" else 255, np.uint8), mode)
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for name, content in (("train", "a\n"), ("aug", "b\n"), ("val", "c\n")):
        (lists / f"{name}.txt").write_text(content)
    config = SegmentDataConfig("voc12aug", str(tmp_path / "VOCdevkit"), 21)
    assert find_root(config) == root
    train = list_split(root, "voc12aug", "train").pairs
    assert [label.parent.name for _, label in train] == ["SegmentationClass", "SegmentationClassAug"]
    assert (read_label(train[0][1], config) == 20).all()  # the palette's index, not its colour
    assert check_split(train, config, "training", whole=False).counts.tolist() == [0] * 20 + [48]
    (lists / "aug.txt").unlink()
    with pytest.raises(UserError, match=r"aug\.txt"):
        list_split(root, "voc12aug", "train")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("2007_000032\n2007_000039\n", ["2007_000032", "2007_000039"]),
        ("\ufeff2007_000032\r\n\r\n  2007_000039  ", ["2007_000032", "2007_000039"]),
        ("", []),
        ("a\nb 1\n", r"line 2 of .*train\.txt.*'b 1'"),
        ("/JPEGImages/a.jpg /SegmentationClassAug/a.png\n2007_000032.JPG\n", ["a", "2007_000032"]),
        ("/JPEGImages/a.jpg /SegmentationClass/b.png\n", "line 1 of .*/JPEGImages/a.jpg"),
        ("/etc/a.jpg\n", "line 1 of .*/etc/a.jpg"),
        ("../a\n", r"line 1 of .* is '\.\./a'"),
        ("a\nb\n\na\n", r"train\.txt.*\ba\b.*lines 1 and 4"),
    ],
)
def test_lists_are_read_line_by_line(tmp_path: Path, content: str, found: list[str] | str) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationClassAug", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("2007_000032", "2007_000039", "a", "b", "c"):
        _save(tmp_path / f"JPEGImages/{name}.jpg", np.zeros((6, 8, 3), np.uint8))
        for labels in ("SegmentationClass", "SegmentationClassAug"):
            _save(tmp_path / labels / f"{name}.png", np.zeros((6, 8), np.uint8))
    lists = tmp_path / "ImageSets/Segmentation"
    (lists / "train.txt").write_text(content, encoding="utf-8", newline="")
    (lists / "aug.txt").write_text("c\n")
    if isinstance(found, str):
        with pytest.raises(UserError, match=found):
            list_split(tmp_path, "voc12aug", "train")
        return
    assert [image.stem for image, _ in list_split(tmp_path, "voc12aug", "train").pairs] == [*found, "c"]
    (lists / "val.txt").write_text("b\n")
    pairs = {split: list_split(tmp_path, "voc12aug", split) for split in ("train", "val")}  # type: ignore[arg-type]
    check_apart(pairs)
    (lists / "val.txt").write_text("b\nc\n")  # as the list of SBD has it, which knows no test images
    pairs["val"] = list_split(tmp_path, "voc12aug", "val")
    with pytest.raises(UserError, match=r"\b1 .*test.*training.*c\.jpg"):
        check_apart(pairs)
    (lists / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"val\.txt.*UTF-8"):
        list_split(tmp_path, "voc12aug", "val")


def test_a_few_broken_files_are_named_and_left_out(ade: Path) -> None:
    config = SegmentDataConfig("ade20k", str(ade), 5, broken_share=0.5)
    _cut("images/validation/0.jpg")(ade)
    _cut(_LABEL)(ade)
    test = check_split(list_split(ade, "ade20k", "val").pairs, config, "test", whole=True)
    assert test.skipped == (0,)
    assert [name.partition(": ")[0] for name in test.broken] == [str(ade / "images/validation/0.jpg")]
    labels = [read_label(ade / f"annotations/validation/{number}.png", config) for number in (1, 2)]
    assert test.counts.sum() == sum(int((label != 255).sum()) for label in labels)
    train = check_split(list_split(ade, "ade20k", "train").pairs, config, "training", whole=False)
    assert (train.skipped, len(train.broken)) == ((2,), 1)


def test_only_so_many_broken_images_are_left_out(tmp_path: Path) -> None:
    report = tmp_path / "broken.txt"
    for _ in range(2):  # a broken image is met again in every epoch
        note_broken(report, "a.jpg: truncated", 20, 0.1)
        note_broken(report, "b.jpg: truncated", 20, 0.1)
    assert read_lines(report) == ["a.jpg: truncated", "b.jpg: truncated"]
    with pytest.raises(UserError, match=r"3 of 20 .*0\.1: a\.jpg: trunc"):
        note_broken(report, "c.jpg: no image", 20, 0.1)


def test_cityscapes_without_train_ids(tmp_path: Path) -> None:
    for split in ("train", "val"):
        _save(tmp_path / f"leftImg8bit/{split}/ulm/ulm_0_leftImg8bit.png", np.zeros((6, 8, 3), np.uint8))
        _save(tmp_path / f"gtFine/{split}/ulm/ulm_0_gtFine_labelTrainIds.png", np.zeros((6, 8), np.uint8))
    assert len(list_split(tmp_path, "cityscapes", "val").pairs) == 1
    (tmp_path / "gtFine/val/ulm/ulm_0_gtFine_labelTrainIds.png").unlink()
    with pytest.raises(UserError, match=r"ulm_0_leftImg8bit\.png.*createTrainIdLabelImgs"):
        list_split(tmp_path, "cityscapes", "val")


def test_scenes_lie_as_ade20k(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path))
    config = SegmentDataConfig("scenes", classes=9, scenes=ScenesConfig(size=32, radius=(0.3, 0.4), train=3, test=2))
    root = find_root(config)
    assert find_root(config) == root
    check_class_list(root, config)
    samples = list_split(root, "scenes", "train")
    assert len(samples.pairs) == 3
    counts = check_split(samples.pairs, config, "training", whole=False).counts
    assert counts.sum() == 3 * 32 * 32  # no pixel without a label
    assert counts[0] > 0
    assert (counts[1:] > 0).any()
    facts = split_facts(root, "scenes", "train", samples)
    assert (facts["name"], facts["images"]) == ("scenes:train", 3)
    assert facts != split_facts(root, "scenes", "train", Samples(samples.pairs[:2])) | {"images": 3}


def test_zero_and_255_are_no_labels(tmp_path: Path) -> None:
    _save(tmp_path / "x.png", np.array([[0, 1, 5, 255]], np.uint8))
    assert read_label(tmp_path / "x.png", ADE).tolist() == [[255, 0, 4, 255]]
    city = SegmentDataConfig("cityscapes", classes=19)
    assert read_label(tmp_path / "x.png", city).tolist() == [[0, 1, 5, 255]]
    _save(tmp_path / "x.png", np.zeros((1, 4), np.uint8))
    _save(tmp_path / "x.jpg", np.zeros((1, 4, 3), np.uint8))
    with pytest.raises(UserError, match=r"no pixel.*test"):
        check_split([(tmp_path / "x.jpg", tmp_path / "x.png")], ADE, "test", whole=True)


def test_the_majority_class_by_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice(5, 4000, p=[0.1, 0.5, 0.25, 0.15, 0.0])
    train = np.array([10, 900, 30, 40, 50])
    found = majority_baseline(train, np.bincount(truth, minlength=5))
    matrix = confusion_matrix(truth, np.full(4000, 1), labels=range(5))
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    iou = np.diag(matrix)[union > 0] / union[union > 0]
    assert found.label == 1
    assert found.mean_iou == pytest.approx(100 * iou.mean())
    assert found.pixel_accuracy == pytest.approx(100 * (truth == 1).mean())
    absent = majority_baseline(np.array([0, 0, 0, 0, 9]), np.array([5, 5, 0, 0, 0]))
    assert (absent.label, absent.mean_iou, absent.pixel_accuracy) == (4, 0.0, 0.0)


def test_spread() -> None:
    assert spread(3, 20) == [0, 1, 2]
    assert spread(10, 3) == [0, 4, 9]
