"""The rendered scenes: reproducible and exactly annotated."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace

import numpy as np
import pytest

from core.data.scenes import render as renderer
from core.data.scenes.image_set import Scenes
from core.data.scenes.photographs import SPLITS
from core.data.scenes.render import Scene, ScenesConfig, arrange, render
from core.errors import UserError
from tests.torchrun import python

SINGLE = ScenesConfig()
SEVERAL = ScenesConfig(size=128, objects=(2, 6), radius=(0.1, 0.28))
CROWDED = ScenesConfig(size=64, objects=(12, 12), radius=(0.2, 0.5))


def fingerprint(scene: Scene) -> str:
    digest = hashlib.sha256()
    for array in (scene.image, scene.boxes, scene.labels, scene.masks, scene.semantic, scene.depth):
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def fingerprints(config: ScenesConfig, split: str, indices: range) -> list[str]:
    return [fingerprint(render(config, split, index)) for index in indices]


PINNED = {
    ("single", "pretrain"): "bc792204c0c52eb7c347f7ecc3260ecf8cc72724e764fd5144b113009bca70b2",
    ("single", "train"): "7db1e444e5247d8497209f11f413cbd5b1fc2f0d504ac3f07430d48f546d63ec",
    ("single", "test"): "d81b0fef049ecd6ddb8b95d3dbc0b31bb7bb31a262ada74a5b10371c6345ddee",
    ("several", "pretrain"): "fc533a83836932a914124fc1d1386751dc00cbcc54c81dc8be4855aabf74bd41",
    ("several", "train"): "95d15231f105800e3feda0bcad92ff201c580eaa025d8c625fe90303a052bd4e",
    ("several", "test"): "112a9baf2961e0de6ab589c1f3eaedf1b410a78951f6739502a51f6d01b61850",
}


@pytest.mark.parametrize("config", [SINGLE, SEVERAL], ids=["single", "several"])
@pytest.mark.parametrize("split", SPLITS)
def test_the_first_scenes_are_pinned(config, split):
    """Whoever changes the renderer on purpose raises VERSION in core/data/scenes/render.py and pins the new digests."""
    name = "single" if config is SINGLE else "several"
    together = hashlib.sha256("".join(fingerprints(config, split, range(8))).encode()).hexdigest()
    assert together == PINNED[name, split]


def test_a_scene_depends_on_neither_order_nor_process():
    here = fingerprints(SEVERAL, "train", range(6))
    assert fingerprints(SEVERAL, "train", range(5, -1, -1)) == here[::-1]
    assert len(set(here)) == 6
    code = (
        "from core.data.scenes.render import *\n"
        f"for index in (4, 2): print(hashlib.sha256(render({SEVERAL!r}, 'train', index).image.tobytes()).hexdigest())"
    )
    printed = python("-c", "import hashlib\n" + code).stdout.split()
    images = [render(SEVERAL, "train", index).image for index in (4, 2)]
    assert printed == [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def test_seed_and_split_change_the_scene_and_counts_do_not():
    base = fingerprint(render(SINGLE, "train", 3))
    assert fingerprint(render(replace(SINGLE, seed=1), "train", 3)) != base
    assert fingerprint(render(SINGLE, "test", 3)) != base
    assert fingerprint(render(replace(SINGLE, train=7, test=9), "train", 3)) == base


@pytest.mark.parametrize("config", [SINGLE, SEVERAL, CROWDED], ids=["single", "several", "crowded"])
def test_annotations_agree_with_each_other(config):
    size = config.size
    for index in range(40):
        scene = render(config, "train", index)
        count = len(scene.labels)
        assert 1 <= count <= config.objects[1]
        assert (scene.image.dtype, scene.image.shape) == (np.uint8, (size, size, 3))
        assert (scene.boxes.dtype, scene.boxes.shape) == (np.float32, (count, 4))
        assert (scene.masks.dtype, scene.masks.shape) == (np.bool_, (count, size, size))
        assert scene.labels.dtype == np.int64
        assert (scene.semantic.dtype, scene.semantic.shape) == (np.uint8, (size, size))
        assert (scene.depth.dtype, scene.depth.shape) == (np.float32, (size, size))

        assert scene.masks.sum(0).max() == 1, "an instance is seen where another one is"
        semantic = np.zeros((size, size), dtype=int)
        for box, label, mask in zip(scene.boxes, scene.labels, scene.masks, strict=True):
            ys, xs = np.nonzero(mask)
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert len(ys) >= 16
            semantic += mask * (label + 1)
            assert len(np.unique(scene.depth[mask])) == 1
        np.testing.assert_array_equal(scene.semantic, semantic)
        assert (scene.depth[semantic == 0] == 10).all()
        assert scene.depth[semantic > 0].max(initial=0) < 10
        nearest_first = [scene.depth[mask][0] for mask in scene.masks]
        assert nearest_first == sorted(nearest_first)


def test_a_nearer_object_hides_a_farther_one_and_a_quarter_of_each_is_seen():
    hidden = 0
    for index in range(60):
        placed = arrange(CROWDED, "train", index)
        assert [thing.radius for thing in placed] == sorted((thing.radius for thing in placed), reverse=True)
        covered = np.zeros((64, 64), dtype=bool)
        for thing in placed:
            whole = np.zeros((64 + 256, 64 + 256), dtype=bool)
            left, top = thing.corner[0] + 128, thing.corner[1] + 128
            side = len(thing.distance)
            whole[top : top + side, left : left + side] = thing.distance <= 0
            in_image = whole[128:192, 128:192]
            np.testing.assert_array_equal(thing.visible, in_image & ~covered)
            assert thing.visible.sum() >= max(16, 0.25 * whole.sum())
            hidden += (in_image & covered).any()
            covered |= in_image
    assert hidden > 60, "these scenes must occlude"


def test_several_objects_find_their_place():
    counts = [len(arrange(SEVERAL, "train", index)) for index in range(300)]
    assert set(counts) == {2, 3, 4, 5, 6}


def test_all_that_is_seen_is_annotated():
    """Away from every annotated object the image is the background alone: that of the same scene without objects."""
    free = []
    for index in range(20):
        scene = render(SEVERAL, "train", index)
        bare = renderer._background(SEVERAL.size, "train", renderer._stream(SEVERAL, "train", index, 1))
        bare = np.rint(np.clip(bare, 0, 255)).astype(np.uint8)
        touched = scene.semantic > 0
        # The shadow is 0.13 × 0.28 × 128 < 4.7 pixels wide along an edge, and 1 / sin 18° as long at the tip of a star.
        for _ in range(16):
            touched = touched | np.roll(touched, 1, 0) | np.roll(touched, -1, 0)
            touched = touched | np.roll(touched, 1, 1) | np.roll(touched, -1, 1)
        np.testing.assert_array_equal(scene.image[~touched], bare[~touched])
        free.append((~touched).mean())
        objects = scene.semantic > 0
        assert (scene.image[objects] != bare[objects]).any(1).mean() > 0.95
    assert np.mean(free) > 0.2


def test_depth_follows_from_size():
    placed = arrange(SEVERAL, "test", 0)
    scene = render(SEVERAL, "test", 0)
    for thing, mask in zip(placed, scene.masks, strict=True):
        assert scene.depth[mask][0] == np.float32(0.25 * 128 / thing.radius)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 31),
        ("size", 513),
        ("objects", (0, 1)),
        ("objects", (3, 2)),
        ("objects", (1, 13)),
        ("radius", (0.05, 0.3)),
        ("radius", (0.3, 0.2)),
        ("radius", (0.3, 0.6)),
        ("pretrain", 0),
        ("train", 0),
        ("test", -1),
        ("seed", -1),
    ],
)
def test_impossible_values_are_named(field, value):
    with pytest.raises(ValueError, match=rf"^{field}\b") as caught:
        ScenesConfig(**{field: value})
    assert str(value) in str(caught.value)


def test_the_least_radius_follows_from_the_size():
    with pytest.raises(ValueError, match=r"^radius.*\(0\.1, 0\.2\).* 0\.188 ≤"):
        ScenesConfig(size=32, radius=(0.1, 0.2))
    with pytest.raises(ValueError, match=r"^radius.* 0\.03 ≤"):
        ScenesConfig(size=512, radius=(0.02, 0.2))
    render(ScenesConfig(size=512, radius=(0.03, 0.03)), "train", 0)
    render(ScenesConfig(size=32, radius=(0.1875, 0.1875), objects=(1, 12)), "train", 0)


def test_scenes_is_an_image_set():
    scenes = Scenes("test", replace(SINGLE, test=24))
    assert (len(scenes), scenes.name, scenes.describe(5)) == (24, "scenes:test", "scenes:test#5")
    assert scenes.classes == ("disc", "triangle", "square", "star", "ring", "cross", "crescent", "hexagon")
    for index in range(24):
        scene = scenes.scene(index)
        assert scene.labels.tolist() == [scenes.label(index)]
        np.testing.assert_array_equal(np.asarray(scenes.image(index)), scene.image)
        for name, values in vars(scenes.annotations(index)).items():
            np.testing.assert_array_equal(values, getattr(scene, name))
    assert scenes.image(0).mode == "RGB"
    assert pickle.loads(pickle.dumps(scenes)).digest() == scenes.digest()
    for index in (-1, 24):
        with pytest.raises(IndexError, match=rf"scenes:test.*23.*{index}\b"):
            scenes.image(index)


def test_the_label_is_the_class_that_most_is_seen_of():
    scenes = Scenes("train", SEVERAL)
    by_area = []
    for index in range(30):
        scene = scenes.scene(index)
        by_area.append(scene.labels[scene.masks.sum((1, 2)).argmax()])
    assert [scenes.label(index) for index in range(30)] == by_area


def test_classes_are_about_equally_frequent():
    scenes = Scenes("train", replace(SINGLE, train=4000))
    counts = np.bincount([scenes.label(index) for index in range(4000)], minlength=8)
    assert counts.min() > 430
    assert counts.max() < 570


def test_the_digest_distinguishes_sets():
    base = Scenes("train", SINGLE).digest()
    others = [
        Scenes("test", SINGLE),
        Scenes("train", replace(SINGLE, size=64)),
        Scenes("train", replace(SINGLE, objects=(1, 2))),
        Scenes("train", replace(SINGLE, radius=(0.3, 0.4))),
        Scenes("train", replace(SINGLE, train=1999)),
        Scenes("train", replace(SINGLE, seed=1)),
    ]
    assert len({base, *(scenes.digest() for scenes in others)}) == 7
    assert Scenes("train", replace(SINGLE, pretrain=1, test=1)).digest() == base
    assert Scenes("train").digest() == base


def test_the_digest_covers_the_photographs(monkeypatch):
    base = Scenes("train", SINGLE).digest()
    monkeypatch.setattr("core.data.scenes.image_set.pixels_digest", lambda split: "other pixels")
    assert Scenes("train", SINGLE).digest() != base


def test_an_unknown_split_is_a_user_error():
    with pytest.raises(UserError, match=r"'val'.*pretrain, train, test"):
        Scenes("val")
