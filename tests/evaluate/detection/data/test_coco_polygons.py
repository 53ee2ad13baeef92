"""Masks as polygons, as COCO has them: what training sees of them, with and without large-scale jitter."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from detectron2.structures import BitMasks, PolygonMasks
from detectron2.utils.env import seed_all_rng

from converters.open import open_backbone
from core.config import load_config
from core.distributed import Processes
from evaluate.detection.data.loaders import _mapper
from evaluate.detection.data.records import XYWH_ABS
from evaluate.detection.model.detector import detectron2_config
from evaluate.detection.probe import find_protocol
from evaluate.detection.settings import DetectionConfig
from tests.evaluate.detection.tiny_detection import arguments, make_place, result, run, steps

WIDTH, HEIGHT = 120, 80
# A concave shape, one of two parts, and a small one in the corner that many crops lose: polygons, and the same as
# rectangles (left, top, right, bottom) to paint.
SHAPES = [
    [[20.0, 10, 70, 10, 70, 30, 40, 30, 40, 50, 70, 50, 70, 70, 20, 70]],
    [[80.0, 10, 100, 10, 100, 30, 80, 30], [80.0, 40, 110, 40, 110, 60, 80, 60]],
    [[112.0, 72, 119, 72, 119, 79, 112, 79]],
]
PAINTED = [[(20, 10, 70, 30), (20, 30, 40, 50), (20, 50, 70, 70)], [(80, 10, 100, 30), (80, 40, 110, 60)],
           [(112, 72, 119, 79)]]  # fmt: skip
BOXES = [[20, 10, 50, 60], [80, 10, 30, 50], [112, 72, 7, 7]]


def record_of(folder: Path) -> dict[str, Any]:
    """A black image with the shapes on it, one colour each, and what COCO would list."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for number, rectangles in enumerate(PAINTED):
        for left, top, right, bottom in rectangles:
            pixels[top:bottom, left:right, number] = 255
    PIL.Image.fromarray(pixels).save(folder / "shapes.png")
    objects = [
        {"bbox": box, "bbox_mode": XYWH_ABS, "iscrowd": 0, "category_id": number, "segmentation": polygons}
        for number, (box, polygons) in enumerate(zip(BOXES, SHAPES, strict=True))
    ]
    return {"file_name": str(folder / "shapes.png"), "image_id": 1, "height": HEIGHT, "width": WIDTH,
            "annotations": objects}  # fmt: skip


def mapper_of(*overrides: str) -> Any:
    config = load_config(DetectionConfig, find_protocol("coco_maskrcnn_vit_b_vitdet"), overrides)
    cfg = detectron2_config(config, open_backbone("timm:vit_tiny_patch16_224"), 3, Processes(0, 1, torch.device("cpu")))
    return _mapper(cfg, config.data.large_scale_jitter)


def borders(mask: torch.Tensor) -> int:
    """How many sides of pixels lie between the mask and the rest of the image."""
    return int((mask[1:] ^ mask[:-1]).sum() + (mask[:, 1:] ^ mask[:, :-1]).sum())


def test_under_jitter_masks_and_boxes_stay_on_their_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image is the reference: each shape has a colour of its own, which is moved, scaled and cropped as pixels."""
    monkeypatch.setitem(sys.modules, "shapely", None)
    record, mapper, side = record_of(tmp_path), mapper_of("data.large_scale_jitter=256"), 256
    cut = lost = 0
    seed_all_rng(0)
    for _ in range(40):
        mapped = mapper(record)
        image, instances = mapped["image"], mapped["instances"]
        height, width = image.shape[1:]
        assert max(height, width) <= side
        assert instances.image_size == (height, width)
        assert isinstance(instances.gt_masks, BitMasks)
        cut += min(height, width) == side
        lost += len(instances) < 3
        present = {int(c): k for k, c in enumerate(instances.gt_classes)}
        for number in range(3):
            painted = image[number] > 127
            if number not in present:
                assert int(painted.sum()) <= 4
                continue
            mask = instances.gt_masks.tensor[present[number]]
            # Interpolation blurs the border: there, and there alone, a pixel may be of the one and not of the other.
            assert int((mask ^ painted).sum()) <= borders(mask)
            ys, xs = np.nonzero(mask.numpy())
            box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert instances.gt_boxes.tensor[present[number]].tolist() == box
    assert cut >= 5  # else the crop was not tried
    assert lost >= 3


def test_without_jitter_polygons_stay_polygons(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    mapper = mapper_of("data.large_scale_jitter=null", "data.short_sides=[160]")
    seed_all_rng(2)
    flipped = []
    for _ in range(8):
        mapped = mapper(record)
        assert mapped["image"].shape == (3, 160, 240)
        masks = mapped["instances"].gt_masks
        assert isinstance(masks, PolygonMasks)
        corners = masks.polygons[2][0].reshape(-1, 2)
        expected = 2 * np.array([[112, 72], [119, 72], [119, 79], [112, 79]])
        mirrored = np.stack([2 * WIDTH - expected[:, 0], expected[:, 1]], axis=1)
        flipped.append(bool(np.allclose(corners, mirrored)))
        assert flipped[-1] or np.allclose(corners, expected)
    assert {True, False} == set(flipped)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes whose masks are eight-cornered polygons, lists of numbers as in COCO's files."""
    root = make_place(tmp_path_factory.mktemp("detection"))
    for file in (root / "scenes" / "annotations").glob("instances_*.json"):
        document = json.loads(file.read_text())
        for one in document["annotations"]:
            left, top, width, height = one["bbox"]
            around = np.pi * (np.arange(8) + 0.5) / 4
            xs, ys = left + width * (1 + np.cos(around)) / 2, top + height * (1 + np.sin(around)) / 2
            one["segmentation"] = [np.stack([xs, ys], axis=1).round(2).flatten().tolist()]
        file.write_text(json.dumps(document))
    return root


@pytest.mark.parametrize("jitter", ["null", "96"])
def test_mask_rcnn_is_trained_on_polygons(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jitter: str
) -> None:
    monkeypatch.setitem(sys.modules, "shapely", None)
    run(monkeypatch, *arguments(
        place, tmp_path, "data.mask_format=polygon", f"data.large_scale_jitter={jitter}", "solver.iterations=3",
        "solver.steps=[2]", "solver.precise_bn=0",
    ))  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps(tmp_path) == [1, 2, 3]
    assert all(0 < line["loss_mask"] < 5 for line in lines)
    assert result(tmp_path)["metrics"]["mask_ap"] is not None
