"""Label propagation: metrics and propagation in closed form, oracle features, the whole command, broken data."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from skimage.morphology import dilation, disk

from core.errors import UserError
from evaluate.dense.propagate.clips import Davis, RenderedClips
from evaluate.dense.propagate.measure import shown_size
from evaluate.dense.propagate.metrics import boundary, contour_accuracy, object_scores, region_similarity, statistics
from evaluate.dense.propagate.probe import PROBE
from evaluate.dense.propagate.propagation import first_labels, mixed_labels, propagate, to_indices
from evaluate.dense.propagate.protocol import ClipsConfig, PropagateConfig
from tests.evaluate.dense.small import VIT, measure

RNG = np.random.default_rng(0)


def square(size: int, left: int, top: int, side: int) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_j_and_f_in_closed_form() -> None:
    empty, one = np.zeros((128, 128), bool), square(128, 40, 40, 40)
    assert (region_similarity(one, one), contour_accuracy(one, one)) == (1.0, 1.0)
    assert (region_similarity(empty, empty), contour_accuracy(empty, empty)) == (1.0, 1.0)
    assert (region_similarity(one, empty), contour_accuracy(one, empty)) == (0.0, 0.0)
    for shift in (1, 2):
        moved = square(128, 40 + shift, 40, 40)
        assert region_similarity(one, moved) == pytest.approx((40 - shift) / (40 + shift))
        assert contour_accuracy(one, moved) == 1.0, "within the tolerance of 2 pixels"
    assert contour_accuracy(one, square(128, 43, 40, 40)) == pytest.approx(0.525, abs=0.01)


def test_the_tolerance_is_a_disc_of_scikit_image() -> None:
    truth, found = (RNG.random((64, 64)) < 0.01 for _ in range(2))
    lines = [boundary(mask) for mask in (truth, found)]
    near = [dilation(line.astype(np.uint8), disk(1)).astype(bool) for line in lines]
    precision, recall = (lines[1] & near[0]).sum() / lines[1].sum(), (lines[0] & near[1]).sum() / lines[0].sum()
    assert contour_accuracy(truth, found) == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-12)


def test_the_public_evaluation_gives_the_same_numbers() -> None:
    theirs = pytest.importorskip("davis2017.metrics", reason="needs davis2017-evaluation")
    for seed in range(5):
        rng = np.random.default_rng(seed)
        truth, found = (square(96, *rng.integers(0, 40, 2), int(rng.integers(5, 50))) for _ in range(2))
        assert region_similarity(truth, found) == pytest.approx(float(theirs.db_eval_iou(truth, found)), abs=1e-12)
        assert contour_accuracy(truth, found) == pytest.approx(float(theirs.f_measure(found, truth)), abs=1e-12)


def test_statistics_of_frames() -> None:
    found = statistics(np.array([1.0, 1.0, 0.0, 0.0]))
    assert (found["mean"], found["recall"], found["decay"]) == (0.5, 0.5, 1.0)
    truth = np.stack([square(32, 8, 8, 8).astype(np.uint8)] * 5)
    garbage = truth.copy()
    garbage[0], garbage[-1] = 0, 1
    assert object_scores(truth, garbage, 1)[0]["J"]["mean"] == 1.0, "first and last frames don't count"
    assert object_scores(truth, truth, 2)[1]["J"]["mean"] == 1.0, "an object that is nowhere"


CONFIG = PropagateConfig(queue=2, radius=2, k=3)


def brute_force(
    target: torch.Tensor, features: list[torch.Tensor], labels: list[torch.Tensor], config: PropagateConfig
) -> torch.Tensor:
    """The definition, cell by cell."""
    _, height, width = target.shape
    found = torch.zeros(len(labels[0]), height, width)
    for y in range(height):
        for x in range(width):
            weights, shares = [], []
            for own, given in zip(features, labels, strict=True):
                for v in range(height):
                    for u in range(width):
                        if config.radius and max(abs(v - y), abs(u - x)) > config.radius:
                            continue
                        weights.append(torch.exp(target[:, y, x] @ own[:, v, u] / config.temperature))
                        shares.append(given[:, v, u])
            stacked = torch.stack(weights)
            kept = stacked >= stacked.topk(config.k).values[-1]
            found[:, y, x] = (stacked[kept, None] * torch.stack(shares)[kept]).sum(0) / stacked[kept].sum()
    return found


def test_mixed_labels_are_those_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    maps = [torch.nn.functional.normalize(torch.randn(6, 5, 7), dim=0) for _ in range(3)]
    labels = [torch.rand(2, 5, 7).softmax(0) for _ in range(2)]
    expected = brute_force(maps[0], maps[1:], labels, CONFIG)
    torch.testing.assert_close(mixed_labels(maps[0], maps[1:], labels, CONFIG), expected)
    monkeypatch.setattr("evaluate.dense.propagate.propagation._ENTRIES", 100)
    torch.testing.assert_close(mixed_labels(maps[0], maps[1:], labels, CONFIG), expected)
    assert expected.sum(0) == pytest.approx(1, abs=1e-5)
    wide, none = (mixed_labels(maps[0], maps[1:], labels, dataclasses.replace(CONFIG, radius=r)) for r in (9, 0))
    torch.testing.assert_close(wide, none)


@pytest.mark.parametrize(("patch", "corner"), [(2, 0), (4, 1), (8, 6)])
def test_place_features_give_the_quantisation_ceiling(patch: int, corner: int) -> None:
    grid, size = 10, 10 * patch
    features = torch.eye(grid * grid).view(-1, grid, grid)
    mask = np.zeros((size, size), np.uint8)
    mask[2 * patch : 8 * patch, 2 * patch : 8 * patch] = 1
    found, vanished = propagate([features] * 4, mask, (size, size), dataclasses.replace(CONFIG, k=1))
    assert vanished == 0
    ceiling = to_indices(first_labels(mask, grid, grid), (size, size), (size, size))
    assert (found[3] == ceiling).all()
    assert region_similarity(mask == 1, found[3] == 1) == pytest.approx(1 - 4 * corner / (36 * patch**2))


def test_equal_features_blur_and_tiny_objects_vanish() -> None:
    mask = np.zeros((80, 80), np.uint8)
    mask[30:46, 30:46], mask[0, 0] = 1, 2
    found, vanished = propagate([torch.ones(3, 10, 10)] * 4, mask, (80, 80), CONFIG)
    assert vanished == 1
    assert region_similarity(mask == 1, found[3] == 1) < 0.9


def test_objects_may_be_permuted() -> None:
    torch.manual_seed(0)
    frames = [torch.randn(4, 8, 8) for _ in range(4)]
    mask = np.zeros((64, 64), np.uint8)
    mask[:32, :32], mask[40:, 40:] = 1, 2
    swapped = np.array([0, 2, 1], np.uint8)[mask]
    one, other = (propagate(frames, own, (64, 64), CONFIG)[0] for own in (mask, swapped))
    assert (np.array([0, 2, 1])[one] == other).mean() > 0.99


def test_rendered_clips_are_repeatable_and_show_their_objects() -> None:
    config = ClipsConfig(count=2, size=64, frames=5)
    clips = RenderedClips(config)
    assert (len(clips), [clip.start for clip in clips.sequences]) == (10, [0, 5])
    first = clips.indices(0)
    assert set(np.unique(first)) >= {0, 1, 2}
    again = RenderedClips(config)
    assert (np.asarray(clips.image(7)) == np.asarray(again.image(7))).all()
    assert (clips.indices(0) != clips.indices(4)).any()
    assert clips.digest() != RenderedClips(dataclasses.replace(config, seed=1)).digest()


def test_frames_have_the_sizes_of_the_protocol() -> None:
    config = PropagateConfig()
    assert shown_size((854, 480), config) == (480, 832)
    assert shown_size((480, 854), config) == (832, 480)
    assert shown_size((910, 480), config) == (480, 896)


FEW = ["clips.count=2", "clips.size=64", "clips.frames=5", "features.size=64"]


def test_clips_with_ceiling_copy_and_pictures(tmp_path: Path) -> None:
    found = measure(PROBE, tmp_path, *FEW, "--draw", "1", ckpt=VIT)
    assert found["J_and_F"] == pytest.approx((found["J_mean"] + found["F_mean"]) / 2)
    assert found["ceiling_J_and_F"] > found["copy_J_and_F"]
    assert len(found["J_and_F_per_sequence"]) == 2
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1


def write_davis(root: Path, frames: int = 4) -> Path:
    """One sequence whose object is a bright square that moves by eight pixels a frame."""
    for number in range(frames):
        mask = square(64, 8 + 8 * number, 16, 24).astype(np.uint8)
        pixels = np.repeat((40 + 180 * mask)[..., None], 3, axis=2).astype(np.uint8)
        indexed = PIL.Image.fromarray(mask, mode="P")
        indexed.putpalette([0, 0, 0, 200, 0, 0])
        for folder, image, ending in (
            ("JPEGImages", PIL.Image.fromarray(pixels), "jpg"),
            ("Annotations", indexed, "png"),
        ):
            (root / folder / "480p/dog").mkdir(parents=True, exist_ok=True)
            image.save(root / folder / f"480p/dog/{number:05d}.{ending}")
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("dog\n")
    return root


DAVIS = ["features.size=64", "multiple=8"]


def test_daviss_layout(tmp_path: Path) -> None:
    root = write_davis(tmp_path / "DAVIS")
    found = measure(PROBE, tmp_path / "out", "--data", f"davis2017:{root}", *DAVIS)
    assert found["J_mean"] > 90, "raw pixels follow a bright square on the grid"
    assert found["J_mean"] > found["copy_J_mean"]
    assert len(Davis(tmp_path)) == 4, "the folder that holds DAVIS does too"


@pytest.mark.parametrize("fault", ["list", "missing", "short", "rgb", "size", "empty", "patch", "name"])
def test_broken_data_ends_in_one_sentence(fault: str, tmp_path: Path) -> None:
    root = write_davis(tmp_path / "DAVIS", frames=2 if fault == "short" else 4)
    mask, extra = root / "Annotations/480p/dog/00000.png", DAVIS
    if fault == "list":
        (root / "ImageSets/2017/val.txt").unlink()
    if fault == "missing":
        (root / "Annotations/480p/dog/00002.png").unlink()
    if fault == "rgb":
        PIL.Image.new("RGB", (64, 64)).save(mask)
    if fault == "size":
        PIL.Image.new("L", (8, 8)).save(mask)
    if fault == "empty":
        PIL.Image.new("L", (64, 64), 255).save(mask)
    if fault == "patch":
        extra = ["features.size=60", "multiple=4"]
    if fault == "name":
        (root / "ImageSets/2017/val.txt").write_text("../dog\n")
    with pytest.raises(UserError) as raised:
        measure(PROBE, tmp_path / "out", "--data", f"davis2017:{root}", *extra)
    assert "\n" not in str(raised.value)
    assert any(word in str(raised.value) for word in ("val.txt", "dog", "features.size"))
