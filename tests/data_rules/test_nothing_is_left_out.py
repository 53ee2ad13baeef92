"""Every reader of images: what is used and what is reported are together what lies on the disk."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from torchvision.datasets import ImageFolder

from core.data.account import account_of
from core.data.open import DataConfig, open_images
from core.data.readers.folder import Folder
from core.data.readers.shards import Shards
from core.data.subset import sample
from evaluate.common.labelled import account_lines, facts, open_labelled
from tests.data_rules.odd_sets import odd_folder, odd_shard, picture


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("seed", range(40))
def test_folders(tmp_path: Path, seed: int) -> None:
    root = tmp_path / "set"
    images, files = odd_folder(root, random.Random(seed), tmp_path / "outside")
    for labelled in (True, False):
        found = Folder(root, "set", labelled)
        assert {found.describe(index) for index in range(len(found))} == images
        circles = found.account().skipped.get("link to a folder above it", 0)
        assert len(found) + sum(found.account().skipped.values()) - circles == files
        assert circles == (root / "a/deep/circle").is_symlink()
        assert (found.account().notes != ()) == any("linked" in image for image in images)
        assert found.classes == ("a", "b c")
        for index in range(len(found)):
            where = found.describe(index)
            assert found.classes[found.label(index)] == Path(where).relative_to(root).parts[0]
            assert (np.asarray(found.image(index)) == np.asarray(PIL.Image.open(where).convert("RGB"))).all()


def test_plain_folders_are_read_as_by_torchvision(image_folder: Path) -> None:
    ours, theirs = Folder(image_folder / "train", "set"), ImageFolder(str(image_folder / "train"))
    assert [(ours.describe(index), ours.label(index)) for index in range(len(ours))] == theirs.samples
    assert list(ours.classes) == theirs.classes
    assert ours.account().lines() == []


@pytest.mark.parametrize("seed", range(40))
def test_shards(tmp_path: Path, seed: int) -> None:
    labels, members = odd_shard(tmp_path / "s.tar", random.Random(seed))
    found = Shards(str(tmp_path / "s.tar"), "s")
    assert {found.describe(index).partition("::")[2]: found.label(index) for index in range(len(found))} == labels
    used = 2 * len(labels)  # an image and a .cls each
    assert used + sum(found.account().skipped.values()) == members
    assert Shards(str(tmp_path / "s.tar"), "s").account() == found.account()  # from the cached index


def test_samples_report_what_they_leave_out_and_convert(image_folder: Path, tmp_path: Path) -> None:
    for number in range(6):
        path = tmp_path / "train" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.full((9, 9), 9000, np.uint16)).save(path)
    images = sample(open_images(DataConfig(f"folder:{tmp_path}"), "train", 0), 4, 0)
    account = account_of(images)
    assert account.skipped == {"not in the sample": 2}
    assert list(account.converted.values()) == [4]
    written = facts(images, [])
    assert written["account"] == {"skipped": dict(account.skipped), "converted": dict(account.converted)}
    assert [label for label, _ in account_lines({"train": images})] == ["account"] * 2


def test_the_counts_of_large_sets_are_cached_by_their_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.data import account

    monkeypatch.setattr(account, "_CACHED_FROM", 1)
    for number in range(4):
        (tmp_path / "set").mkdir(exist_ok=True)
        PIL.Image.new("RGBA", (4, 4), (number, 0, 0, 9)).save(tmp_path / f"set/{number}.png")
    first = account_of(Folder(tmp_path / "set", "set"))
    assert list(first.converted.values()) == [4]
    monkeypatch.setattr(Folder, "conversions", lambda self, index: pytest.fail("not from the cache"))
    assert account_of(Folder(tmp_path / "set", "set")) == first
    (cached,) = (tmp_path / "cache/accounts").iterdir()
    cached.write_text("[")
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("folders", "measured", "notes"),
    [
        (("train", "val"), "val", 0),
        (("train", "val", "test"), "val", 0),
        (("train", "valid", "test"), "valid", 1),
        (("train", "validation", "test"), "validation", 1),
        (("train", "Val"), "Val", 1),
        (("train", "val", "valid"), "val", 1),
        (("train", "test"), "test", 1),
    ],
)
def test_splits_by_the_names_in_use(tmp_path: Path, folders: tuple[str, ...], measured: str, notes: int) -> None:
    for folder in folders:
        for name in "ab":
            (tmp_path / folder / name).mkdir(parents=True)
            (tmp_path / folder / name / "1.png").write_bytes(picture(1))
    _, val = open_labelled(DataConfig(f"folder:{tmp_path}"), None, None, 0)
    assert val.name == f"folder:{tmp_path / measured}"
    assert len(val.account().notes) == notes


@pytest.mark.parametrize(
    ("made", "images", "notes"),
    [
        (("boat/1", "car/1", "train/1"), 3, 1),
        (("train/1", "boat/1"), 2, 1),
        (("train/boat/1", "val/boat/1"), 1, 0),
        (("train/1", "train/2"), 2, 0),
        (("train/1", "test/1"), 1, 0),
        (("train/boat/1", "notes/1"), 1, 1),
        (("1", "sub/1", "sub/2"), 3, 1),
        (("1", "2"), 2, 0),
    ],
)
def test_pre_training_takes_every_image(tmp_path: Path, made: tuple[str, ...], images: int, notes: int) -> None:
    for name in made:
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(1))
    found = open_images(DataConfig(f"folder:{tmp_path}"), "pretrain", 0)
    assert len(found) == images
    assert len(found.account().notes) == notes


@pytest.mark.parametrize("empty", [False, True])
def test_classes_are_matched_by_name(tmp_path: Path, empty: bool) -> None:
    for split, names in (("train", "abc"), ("val", "ac")):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "1.png").write_bytes(picture(1))
    if empty:
        (tmp_path / "val" / "b").mkdir()
        (tmp_path / "val" / "d").mkdir()  # without images: no class of train is missing
    train, val = open_labelled(DataConfig(f"folder:{tmp_path}"), None, None, 0)
    assert train.classes == val.classes == ("a", "b", "c")
    assert [Path(val.describe(index)).parent.name for index in range(2)] == ["a", "c"]
    assert [val.label(index) for index in range(2)] == [0, 2]
    assert any("b" in note for note in val.account().notes)
    alone = open_images(DataConfig(f"folder:{tmp_path}"), "val", 0)
    assert alone.digest() != val.digest()  # the same images under other labels: not the same cached features
