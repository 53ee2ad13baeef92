"""core/data/readers/folder.py, subset.py and broken.py on real files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from core.data.broken import BrokenImages
from core.data.open import DataConfig, open_images
from core.data.readers.folder import Folder
from core.data.readers.splits import split_folder
from core.data.subset import few_shot, labels_of, sample
from core.errors import BrokenImage, UserError


def test_class_folders(image_folder: Path) -> None:
    images = open_images(DataConfig(f"folder:{image_folder}"), "train", seed=0)
    assert images.classes == ("cat", "dog")
    assert labels_of(images).tolist() == [0] * 6 + [1] * 6
    assert images.image(7).size == (48, 40)
    assert images.describe(7) == str(image_folder / "train/dog/1.jpg")
    assert open_images(DataConfig(f"folder:{image_folder}"), "val", 0).digest() != images.digest()


def test_flat_and_nested_folders(tmp_path: Path) -> None:
    for name in ("flat/b.png", "flat/a.PNG", "nested/x/deep/1.png", "nested/y/2.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("L", (4, 4)).save(path)
    flat = Folder(tmp_path / "flat", "flat")
    assert [Path(flat.describe(i)).name for i in range(len(flat))] == ["a.PNG", "b.png"]
    assert flat.classes == ()
    assert flat.label(0) == -1
    assert flat.image(0).mode == "RGB"
    nested = Folder(tmp_path / "nested", "nested")
    assert nested.describe(0).endswith("nested/x/deep/1.png")
    with pytest.raises(UserError, match=r"flat.*labels"):
        labels_of(flat)


def test_split_folders(image_folder: Path, tmp_path: Path) -> None:
    assert split_folder(image_folder, "pretrain") == (image_folder / "train", ())
    assert split_folder(image_folder, "val") == (image_folder / "val", ())
    assert split_folder(tmp_path, "pretrain") == (tmp_path, ())
    with pytest.raises(UserError, match=rf"{tmp_path}.*\bval\b.*validation.*test"):
        split_folder(tmp_path, "val")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "no images"),
        (["a/"], "/a\\b.*empty"),
        (["a/1.png", "b/"], "/b\\b.*empty"),
        (["a/1.png", "2.png"], r"2\.png.*folder"),
        (["readme.txt"], "no images"),
    ],
)
def test_unusable_folders(tmp_path: Path, made: list[str], message: str) -> None:
    for name in made:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.write_bytes(b"")
    with pytest.raises(UserError, match=message):
        Folder(tmp_path, "folder")
    with pytest.raises(UserError, match="absent"):
        Folder(tmp_path / "absent", "folder")


def test_broken_files_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:500])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.gif.png").write_bytes(b"")
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (50000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    (tmp_path / "bomb.png").write_bytes(header + bytes(20))
    images = Folder(tmp_path, "folder")
    for position in range(len(images)):
        if images.describe(position) == str(whole):
            assert images.image(position).size == (64, 64)
        else:
            with pytest.raises(BrokenImage, match=images.describe(position)):
                images.image(position)


def test_too_many_broken_images_end_the_run_with_the_list() -> None:
    broken = BrokenImages(total=200, allowed_share=0.01)
    assert broken.add(["a.jpg", "a.jpg"]) == ["a.jpg"]
    assert broken.add(["a.jpg", "b.jpg"]) == ["b.jpg"]
    with pytest.raises(UserError, match=r"3 of 200 .*a\.jpg; b\.jpg; c\.jpg"):
        broken.add(["c.jpg"])


def test_samples_and_few_shots(image_folder: Path) -> None:
    images = open_images(DataConfig(f"folder:{image_folder}"), "train", seed=0)
    part = sample(images, 5, seed=1)
    assert len(part) == 5
    assert part.positions.tolist() == sorted(set(part.positions.tolist()))
    assert part.describe(0) == images.describe(int(part.positions[0]))
    assert sample(images, 5, seed=1).digest() == part.digest() != sample(images, 5, seed=2).digest()
    assert labels_of(few_shot(images, 2, seed=0)).tolist() == [0, 0, 1, 1]
    with pytest.raises(UserError, match=r"\b7 .*\bcat\b.*\b6 "):
        few_shot(images, 7, seed=0)
    whole = sample(images, 13, seed=0)
    assert (len(whole), whole.digest()) == (12, images.digest())
    assert "13" in whole.account().notes[0]


@pytest.mark.parametrize("source", ["imagenet", "folder", "folder:", "scenes:x", "webdataset:"])
def test_unknown_sources(source: str) -> None:
    with pytest.raises(ValueError, match="source"):
        DataConfig(source)
