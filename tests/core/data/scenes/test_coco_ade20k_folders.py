"""Scenes on disk: COCO and ADE20K layouts that hold exactly what the renderer says, written whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from core.data.scenes.coco_ade20k_folders import run_lengths, write_ade20k, write_coco
from core.data.scenes.image_set import Scenes
from core.data.scenes.render import CLASSES, ScenesConfig
from core.errors import UserError
from core.files.atomic_folder import atomic_folder

CONFIG = ScenesConfig(size=64, objects=(1, 4), radius=(0.12, 0.3), train=5, test=3)


def listing(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def decode(segmentation):
    """Uncompressed run lengths to a mask, straight from COCO's definition."""
    height, width = segmentation["size"]
    values = []
    for position, run in enumerate(segmentation["counts"]):
        values += [position % 2 == 1] * run
    return np.array(values).reshape(width, height).T


def test_run_lengths_by_hand():
    mask = np.array([[0, 1, 1], [0, 1, 0]], dtype=bool)  # by columns: 00 11 10
    assert run_lengths(mask) == [2, 3, 1]
    assert run_lengths(~mask) == [0, 2, 3, 1]
    assert run_lengths(np.zeros((2, 2), dtype=bool)) == [4]
    assert run_lengths(np.ones((2, 2), dtype=bool)) == [0, 4]


def test_coco_holds_the_scenes(tmp_path):
    root = write_coco(tmp_path / "deep" / "coco", CONFIG)
    assert listing(root) == [
        "annotations/instances_train2017.json",
        "annotations/instances_val2017.json",
        "scenes.json",
        *(f"train2017/{number:012d}.png" for number in (1, 2, 3, 4, 5)),
        *(f"val2017/{number:012d}.png" for number in (6, 7, 8)),
    ]
    seen_ids = []
    for name, split, count in (("train2017", "train", 5), ("val2017", "test", 3)):
        scenes = Scenes(split, CONFIG)
        content = json.loads((root / "annotations" / f"instances_{name}.json").read_text())
        assert [(entry["id"], entry["name"]) for entry in content["categories"]] == list(enumerate(CLASSES, start=1))
        assert len(content["images"]) == count
        for index, image in enumerate(content["images"]):
            scene = scenes.scene(index)
            assert (image["width"], image["height"]) == (64, 64)
            with PIL.Image.open(root / name / image["file_name"]) as opened:
                np.testing.assert_array_equal(np.asarray(opened), scene.image)
            objects = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
            assert [entry["category_id"] for entry in objects] == (scene.labels + 1).tolist()
            for entry, mask in zip(objects, scene.masks, strict=True):
                np.testing.assert_array_equal(decode(entry["segmentation"]), mask)
                ys, xs = np.nonzero(mask)
                x, y, width, height = entry["bbox"]
                assert (x, y, x + width, y + height) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
                assert (entry["area"], entry["iscrowd"]) == (len(xs), 0)
        seen_ids += [entry["id"] for entry in content["annotations"]]
    assert seen_ids == list(range(1, len(seen_ids) + 1))


def test_ade20k_holds_the_scenes(tmp_path):
    root = write_ade20k(tmp_path / "ade", CONFIG)
    pairs = [("training", f"ADE_train_{n:08d}") for n in range(1, 6)]
    pairs += [("validation", f"ADE_val_{n:08d}") for n in range(1, 4)]
    assert listing(root) == sorted(
        ["objectInfo150.txt", "scenes.json"]
        + [f"images/{part}/{stem}.jpg" for part, stem in pairs]
        + [f"annotations/{part}/{stem}.png" for part, stem in pairs]
    )
    maps = []
    for position, (part, stem) in enumerate(pairs):
        scene = Scenes("train", CONFIG).scene(position) if position < 5 else Scenes("test", CONFIG).scene(position - 5)
        with PIL.Image.open(root / "annotations" / part / f"{stem}.png") as opened:
            assert opened.mode == "L"
            maps.append(np.asarray(opened))
        np.testing.assert_array_equal(maps[-1], scene.semantic + 1)
        with PIL.Image.open(root / "images" / part / f"{stem}.jpg") as opened:
            assert opened.size == (64, 64)
            assert np.abs(np.asarray(opened).astype(int) - scene.image).mean() < 6
    header, *rows = (line.split("\t") for line in (root / "objectInfo150.txt").read_text().splitlines())
    assert header == ["Idx", "Ratio", "Train", "Val", "Stuff", "Name"]
    assert [row[5] for row in rows] == ["background", *CLASSES]
    everything = np.stack(maps)
    for value, row in enumerate(rows, start=1):
        hits = (everything == value).any((1, 2))
        assert row[:5] == [
            str(value),
            f"{(everything == value).mean():.4f}",
            str(hits[:5].sum()),
            str(hits[5:].sum()),
            "1" if value == 1 else "0",
        ]


@pytest.mark.parametrize("write", [write_coco, write_ade20k])
def test_writing_again_changes_nothing_and_other_scenes_replace(write, tmp_path):
    root = write(tmp_path / "scenes", CONFIG)
    stamps = {name: (root / name).stat().st_mtime_ns for name in listing(root)}
    write(root, CONFIG)
    assert {name: (root / name).stat().st_mtime_ns for name in listing(root)} == stamps
    write(root, replace(CONFIG, train=2))
    assert len(listing(root)) < len(stamps)
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]


def test_one_layout_replaces_the_other(tmp_path):
    write_coco(tmp_path / "scenes", CONFIG)
    write_ade20k(tmp_path / "scenes", CONFIG)
    assert not (tmp_path / "scenes" / "train2017").exists()
    assert (tmp_path / "scenes" / "objectInfo150.txt").is_file()


@pytest.mark.parametrize("write", [write_coco, write_ade20k])
def test_a_folder_of_something_else_is_refused(write, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"/mine\b.*scenes"):
        write(tmp_path / "mine", CONFIG)
    assert listing(tmp_path) == ["mine/thesis.tex"]
    (tmp_path / "mine" / "thesis.tex").unlink()
    assert write(tmp_path / "mine", CONFIG).is_dir()


@pytest.mark.parametrize("write", [write_coco, write_ade20k])
def test_a_broken_off_write_leaves_the_old_scenes(write, tmp_path, monkeypatch):
    root = write(tmp_path / "scenes", CONFIG)
    before = {name: (root / name).read_bytes() for name in listing(root)}

    def breaks(self, index):
        raise KeyboardInterrupt

    monkeypatch.setattr(Scenes, "scene", breaks)
    with pytest.raises(KeyboardInterrupt):
        write(root, replace(CONFIG, seed=5))
    assert {name: (root / name).read_bytes() for name in listing(root)} == before
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    root = tmp_path / "made"
    killed = tmp_path / ".made.0123.part"
    killed.mkdir()
    os.utime(killed, (0, 0))
    with atomic_folder(root, lambda: False) as slower:
        assert not killed.exists()
        os.utime(slower, (0, 0))
        with atomic_folder(root, lambda: False) as quicker:
            (quicker / "file").write_text("quicker")
        (slower / "file").write_text("slower")
    assert (root / "file").read_text() == "slower"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_the_quicker_process_wins(tmp_path):
    root = tmp_path / "folder"
    with atomic_folder(root, root.is_dir) as slower:
        (slower / "slower").touch()
        with atomic_folder(root, root.is_dir) as quicker:
            (quicker / "quicker").touch()
    assert listing(tmp_path) == ["folder/quicker"]


def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"{tmp_path}/file"):
        write_coco(tmp_path / "file" / "coco", CONFIG)
