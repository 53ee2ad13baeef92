"""Masks in COCO's file: polygons and run lengths, what is read, and one sentence for what isn't one."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from pycocotools import mask as coco_mask

from core.data.scenes.coco_ade20k_folders import run_lengths, write_coco
from core.data.scenes.render import ScenesConfig
from core.errors import UserError
from evaluate.detection.data.coco_data import open_coco
from evaluate.detection.data.coco_masks import run_lengths_of
from evaluate.detection.data.records import DROPPED_POLYGON
from tests.evaluate.detection.data.test_coco_data import changed, rle, write


def test_run_lengths_are_the_scenes_masks(tmp_path: Path) -> None:
    from core.data.scenes.image_set import Scenes

    config = ScenesConfig(size=48, objects=(2, 4), radius=(0.15, 0.3), pretrain=1, train=3, test=1)
    split = open_coco(write_coco(tmp_path / "scenes", config), "train", True, "bitmask", 0.0)
    for index, record in enumerate(split.records):
        scene = Scenes("train", config).scene(index)
        masks = [coco_mask.decode(one["segmentation"]).astype(bool) for one in record["annotations"]]
        assert np.array_equal(np.stack(masks), scene.masks)
        assert [one["category_id"] for one in record["annotations"]] == scene.labels.tolist()


def test_run_lengths_of_another_sum_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run lengths.* 1199 .*1200"):
        open_coco(write(tmp_path, changed(rle([1199], [30, 40]))), "train", True, "bitmask", 0.0)


def test_our_run_lengths_are_pycocotools() -> None:
    mask = np.random.default_rng(0).random((30, 40)) > 0.5
    compressed = coco_mask.frPyObjects({"size": [30, 40], "counts": run_lengths(mask)}, 30, 40)
    assert np.array_equal(coco_mask.decode(compressed).astype(bool), mask)


def test_compressed_run_lengths_are_those_of_pycocotools_and_must_fit() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = (rng.random((30, 40)) < rng.random()).astype(np.uint8)
        runs = run_lengths(mask)
        text = coco_mask.frPyObjects({"size": [30, 40], "counts": runs}, 30, 40)["counts"].decode()
        assert run_lengths_of(text) == runs
    assert sum(run_lengths_of("52203") or []) != 1600  # pycocotools would decode more pixels than there are


@pytest.mark.parametrize("counts", [["a", 3], [-100, 1300], None, "\x7f", "P", [True, 1199]])
def test_run_lengths_that_are_none_are_refused(tmp_path: Path, counts: Any) -> None:
    with pytest.raises(UserError, match=r"annotation 1.*run lengths"):
        open_coco(write(tmp_path, changed(rle(counts, [30, 40]))), "train", True, "bitmask", 0.0)


def test_compressed_run_lengths_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run lengths.* \d+ .*1200"):
        open_coco(write(tmp_path, changed(rle("52203", [30, 40]))), "train", True, "bitmask", 0.0)


def masked(tmp_path: Path, segmentation: Any, share: float = 0.0) -> Any:
    document = changed(lambda d: d["annotations"][0].update(segmentation=segmentation))
    return open_coco(write(tmp_path, changed(lambda _: None), document), "val", True, "polygon", share)


@pytest.mark.parametrize("segmentation", [None, [], "all", 3])
def test_an_object_without_a_mask_is_refused(tmp_path: Path, segmentation: Any) -> None:
    with pytest.raises(UserError, match=r"annotation 1\b.*mask.*detector\.masks=false"):
        masked(tmp_path, segmentation, 0.9)


@pytest.mark.parametrize("point", [float("nan"), float("inf"), "4", None, True, 10**400, [1]])
def test_polygons_of_other_things_than_numbers_are_refused(tmp_path: Path, point: Any) -> None:
    with pytest.raises(UserError, match=r"annotation 1: .*polygon.*finite"):
        masked(tmp_path, [[1, 2, 11, 2, 11, point]], 0.9)


@pytest.mark.parametrize("count", [0, 2, 4, 5, 7])
def test_an_object_without_a_polygon_of_three_points_counts_as_impossible(tmp_path: Path, count: int) -> None:
    """pycocotools takes four numbers for a box, and stops at less: such an object must not reach it."""
    with pytest.raises(UserError, match=rf"1 of 3 .*polygons.* {count} numbers"):
        masked(tmp_path, [[5] * count])
    split = masked(tmp_path, [[5] * count], 0.5)
    assert len(split.excluded) == 1
    assert [one["id"] for one in split.truth["annotations"]] == [2, 3]
    assert [len(record["annotations"]) for record in split.records] == [1, 1]


@pytest.mark.parametrize("count", [0, 2, 4, 5, 7])
@pytest.mark.parametrize("first", [True, False])
def test_a_polygon_of_less_than_three_points_leaves_the_others_of_its_object(
    tmp_path: Path, count: int, first: bool
) -> None:
    """As Detectron2's own reader has it in training; the part without area is missing from the truth alike."""
    from detectron2.data.datasets import load_coco_json

    whole, bad = [1, 2, 11, 2, 11, 12], [5] * count
    split = masked(tmp_path, [bad, whole] if first else [whole, bad])
    assert split.excluded == ()
    assert split.truth["annotations"][0]["segmentation"] == [whole]
    assert split.account.converted[DROPPED_POLYGON] == 1
    file, folder = tmp_path / "annotations/instances_val2017.json", tmp_path / "val2017"
    theirs = load_coco_json(str(file), str(folder))
    assert [[one["segmentation"] for one in record["annotations"]] for record in theirs] == [
        [one["segmentation"] for one in record["annotations"]] for record in split.records
    ]
