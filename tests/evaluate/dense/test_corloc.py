"""Object discovery: planted objects are found, IoU against torchvision, VOC's layout, broken annotations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.ops import box_iou

from core.data.scenes.image_set import Scenes
from core.data.scenes.render import ScenesConfig
from core.errors import UserError
from evaluate.dense.corloc.discovery import centred_square, component_box, located, lost, overlaps, tokencut
from evaluate.dense.corloc.probe import PROBE
from tests.evaluate.dense.small import SCENES, VIT, measure


def planted() -> tuple[np.ndarray, tuple[int, int]]:
    """Features of an 8 × 10 grid: an object in rows 2 … 4, columns 5 … 8, unlike its background."""
    rng = np.random.default_rng(0)
    inside = np.zeros((8, 10), bool)
    inside[2:5, 5:9] = True
    basis = np.where(inside[..., None], [1.0, -0.5, 0.0], [-0.5, 1.0, 0.0]) + 0.05 * rng.normal(size=(8, 10, 3))
    return basis.reshape(-1, 3), (8, 10)


def test_a_planted_object_is_found_by_both_methods() -> None:
    features, grid = planted()
    assert lost(features, grid, 10) == (5, 2, 9, 5)
    assert tokencut(features, grid, 0.2) == (5, 2, 9, 5)


def test_the_component_of_the_seed_counts_alone() -> None:
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 1], [1, 0, 0, 0]], bool)
    assert component_box(mask, 1) == (0, 0, 2, 1)
    assert component_box(mask, 7) == (3, 0, 4, 2)


def test_overlap_is_torchvisions_and_above_one_half_counts() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (20, 2))
    boxes = np.c_[corners, corners + rng.uniform(1, 50, (20, 2))]
    theirs = box_iou(torch.from_numpy(boxes[:1]), torch.from_numpy(boxes)).numpy()[0]
    assert overlaps(boxes[0], boxes) == pytest.approx(theirs)
    half = np.array([[0.0, 0.0, 10.0, 20.0]])
    assert not located(np.array([0.0, 0.0, 10.0, 10.0]), half)
    assert located(np.array([0.0, 0.0, 10.0, 10.1]), half)
    assert not located(half[0], np.empty((0, 4)))
    assert centred_square((20, 10), 0.5).tolist() == [7.5, 2.5, 12.5, 7.5]


def test_scenes_with_the_centred_square(tmp_path: Path) -> None:
    found = measure(PROBE, tmp_path, *SCENES, "--draw", "1", ckpt=VIT)
    assert found["images"] == 8
    assert 0 <= found["lost"] <= 100
    assert found["tokencut"] == max(found["tokencut_by_threshold"].values())
    config = ScenesConfig(size=32, objects=(1, 2), radius=(0.2, 0.4), train=16, test=8)
    boxes = [torch.from_numpy(Scenes("test", config).annotations(index).boxes) for index in range(8)]
    shares = {}
    for share in np.arange(0.1, 1.01, 0.05):
        square = torch.tensor([[16 - 16 * share, 16 - 16 * share, 16 + 16 * share, 16 + 16 * share]])
        shares[share] = 100 * np.mean([float(box_iou(square.float(), each).max()) > 0.5 for each in boxes])
    assert found["square"] == pytest.approx(max(shares.values()))
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1


def write_voc07(root: Path) -> Path:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / "VOC2007" / folder).mkdir(parents=True)
    names = []
    for number in range(3):
        pixels = np.zeros((37, 50, 3), np.uint8)
        pixels[10:30, 9:41] = 200
        PIL.Image.fromarray(pixels).save(root / f"VOC2007/JPEGImages/{number:06d}.jpg", quality=95)
        box = "<xmin>10</xmin><ymin>11</ymin><xmax>41</xmax><ymax>30</ymax>"
        xml = f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
        (root / f"VOC2007/Annotations/{number:06d}.xml").write_text(xml)
        names.append(f"{number:06d}")
    (root / "VOC2007/ImageSets/Main/trainval.txt").write_text("\n".join(names) + "\n")
    return root


def test_vocs_layout_at_full_resolution(tmp_path: Path) -> None:
    root = write_voc07(tmp_path / "VOCdevkit")
    found = measure(PROBE, tmp_path / "out", "--data", f"voc07:{root}", "features.size=32", "centred=true")
    assert (found["images"], found["tokencut"]) == (3, 100.0)


@pytest.mark.parametrize("fault", ["list", "image", "xml", "encoding", "box", "source"])
def test_broken_data_ends_in_one_sentence(fault: str, tmp_path: Path) -> None:
    root = write_voc07(tmp_path / "VOCdevkit")
    year, data = root / "VOC2007", f"voc07:{root}"
    if fault == "list":
        (year / "ImageSets/Main/trainval.txt").unlink()
    if fault == "image":
        (year / "JPEGImages/000001.jpg").unlink()
    if fault == "xml":
        (year / "Annotations/000001.xml").write_text("<annotation>")
    if fault == "encoding":
        (year / "Annotations/000001.xml").write_text('<?xml version="1.0" encoding="nonsense"?><annotation/>')
    if fault == "box":
        (year / "Annotations/000001.xml").write_text("<annotation><object><name>x</name></object></annotation>")
    if fault == "source":
        data = "coco:/nowhere"
    with pytest.raises(UserError) as raised:
        measure(PROBE, tmp_path / "out", "--data", data, "features.size=32")
    assert "\n" not in str(raised.value)
    assert any(word in str(raised.value) for word in ("trainval.txt", "000001", "data.source"))
