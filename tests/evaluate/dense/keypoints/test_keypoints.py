"""Keypoint matching: warps, oracle features and chance, the whole command on scenes and on SPair's layout."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from core.data.scenes.render import ScenesConfig
from core.errors import UserError
from evaluate.dense.data import SemanticScenes
from evaluate.dense.keypoints.matching import cell_centres, chance_of, matches, sampled, within
from evaluate.dense.keypoints.measure import summary
from evaluate.dense.keypoints.probe import PROBE
from evaluate.dense.keypoints.protocol import WarpConfig
from evaluate.dense.keypoints.scenes import Warp, WarpedView
from tests.evaluate.dense.small import SCENES, VIT, measure


def test_a_warp_and_its_inverse() -> None:
    points = np.random.default_rng(0).uniform(0, 32, (20, 2))
    for flipped in (False, True):
        warp = Warp(3.0, 5.0, 20.0, flipped, 32)
        assert warp.from_scene(warp.to_scene(points)) == pytest.approx(points)
    assert Warp(3.0, 5.0, 20.0, True, 32).to_scene(np.array([[32.0, 0.0]])) == pytest.approx(np.array([[3.0, 5.0]]))


def test_a_view_shows_what_its_warp_says() -> None:
    scenes = SemanticScenes("test", ScenesConfig(size=32, test=2))
    plain = WarpedView(scenes, WarpConfig(share=(1.0, 1.0), flip=0.0, colour=0.0), 0, 32, 32)
    assert (np.asarray(plain.image(0)) == np.asarray(scenes.image(0))).all()
    turned = WarpedView(scenes, WarpConfig(share=(1.0, 1.0), flip=1.0, colour=0.0), 0, 32, 32)
    assert (np.asarray(turned.image(0))[:, ::-1] == np.asarray(scenes.image(0))).all()
    assert plain.digest() != turned.digest()


def test_features_of_places_are_matched_perfectly_and_random_ones_by_chance() -> None:
    height, width, size = 10, 10, 100.0
    centres = cell_centres(height, width, size)
    ones = torch.eye(height * width).view(-1, height, width)
    assert matches(ones.flatten(1).T, ones, size) == pytest.approx(centres)
    radius = 10.0
    chance = chance_of(centres, centres, radius)
    assert chance.max() == 5 / 100, "a cell and its four neighbours"
    assert chance.mean() == pytest.approx((100 + 2 * 2 * 90) / 100**2)
    torch.manual_seed(0)
    hits = np.mean([within(matches(torch.randn(100, 64), torch.randn(64, 10, 10), size), centres, radius).mean()
                    for _ in range(60)])  # fmt: skip
    assert hits == pytest.approx(chance.mean(), abs=0.01)
    fine = chance_of(np.array([[50.0, 50.0]]), cell_centres(200, 200, size), radius)
    assert fine[0] == pytest.approx(math.pi * 0.01, rel=0.02)


def test_features_are_sampled_bilinearly() -> None:
    ramp = torch.arange(8.0).expand(1, 8, 8)
    found = sampled(ramp, np.array([[4.0, 30.0], [20.0, 4.0], [28.0, 12.0]]), 64.0)
    assert found[:, 0].tolist() == pytest.approx([0.0, 2.0, 3.0])


def test_recall_is_a_mean_over_categories_of_keypoints() -> None:
    def row(name: str, viewpoint: int, right: list[bool]) -> tuple[object, ...]:
        values = np.array(right)
        return name, viewpoint, values, np.full(len(values), 0.03), np.zeros(len(values), bool)

    found = summary([row("cat", 0, [True, True, True]), row("cat", 1, [False]), row("dog", 0, [False, True])])  # type: ignore[list-item]
    assert found["recall_per_category"] == {"cat": 75.0, "dog": 50.0}
    assert found["recall"] == 62.5
    assert found["by_viewpoint"] == {"viewpoint 0": 75.0, "viewpoint 1": 0.0}
    assert found["chance"] == pytest.approx(3.0)


def test_scenes_with_pictures(tmp_path: Path) -> None:
    found = measure(PROBE, tmp_path, *SCENES, "--draw", "1", ckpt=VIT)
    assert set(found["recall_per_category"]) == {"objects", "background"}
    assert 0 < found["chance"] < 25
    same = measure(
        PROBE, tmp_path / "same", *SCENES, "warp.share=[1.0,1.0]", "warp.flip=0.0", "warp.colour=0.0", ckpt=VIT
    )
    assert (same["recall"], same["same_place"]) == (100.0, 100.0), "two equal views"
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1


def write_spair(root: Path) -> Path:
    """One pair of a category: the same picture twice, the second shifted by 16 pixels."""
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    folder = root / "JPEGImages/cat"
    folder.mkdir(parents=True)
    PIL.Image.fromarray(pixels).save(folder / "a.jpg", quality=98)
    PIL.Image.fromarray(np.roll(pixels, 16, axis=1)).save(folder / "b.jpg", quality=98)
    (root / "PairAnnotation/test").mkdir(parents=True)
    content = {
        "category": "cat", "src_imname": "a.jpg", "trg_imname": "b.jpg", "viewpoint_variation": 1,
        "src_kps": [[12, 12], [36, 28]], "trg_kps": [[28, 12], [52, 28]], "trg_bndbox": [0, 0, 64, 48],
    }  # fmt: skip
    (root / "PairAnnotation/test/000-a-b:cat.json").write_text(json.dumps(content))
    return root


def test_spairs_layout(tmp_path: Path) -> None:
    root = write_spair(tmp_path / "SPair-71k")
    found = measure(PROBE, tmp_path / "out", "--data", f"spair71k:{root}", "features.size=64")
    assert (found["recall"], found["keypoints"]) == (100.0, 2)
    assert found["same_place"] == 0.0


@pytest.mark.parametrize("fault", ["folder", "image", "json", "points", "outside"])
def test_broken_data_ends_in_one_sentence(fault: str, tmp_path: Path) -> None:
    root = write_spair(tmp_path / "SPair-71k")
    file = next((root / "PairAnnotation/test").glob("*.json"))
    content = json.loads(file.read_text())
    if fault == "folder":
        file.unlink()
    if fault == "image":
        (root / "JPEGImages/cat/b.jpg").unlink()
    if fault == "json":
        file.write_text("{")
    if fault == "points":
        file.write_text(json.dumps({**content, "trg_kps": [[1, 2]]}))
    if fault == "outside":
        file.write_text(json.dumps({**content, "src_imname": "../../x.jpg"}))
    with pytest.raises(UserError) as raised:
        measure(PROBE, tmp_path / "out", "--data", f"spair71k:{root}", "features.size=64")
    assert "\n" not in str(raised.value)
    assert any(word in str(raised.value) for word in ("PairAnnotation", "b.jpg", "000-a-b"))
