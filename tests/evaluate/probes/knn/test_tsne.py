"""evaluate/probes/knn/tsne.py: which images a map shows, and that what is alike lies together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from core.features import Features
from evaluate.common.pictures import find_pictures
from evaluate.probes.knn.probe import MAP
from evaluate.probes.knn.tsne import choose, draw_map, perplexity, place


def clusters(count: int, classes: int) -> Features:
    generator = np.random.default_rng(0)
    labels = np.arange(count) % classes
    values = generator.normal(size=(classes, 16))[labels] + 0.3 * generator.normal(size=(count, 16))
    values = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
    return Features(values, labels, np.arange(count), "set:test", tuple(f"class {i}" for i in range(classes)), ())


def test_classes_are_spread_evenly_and_images_always_the_same() -> None:
    labels = np.arange(5000) % 100
    rows, classes = choose(labels)
    assert classes == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    assert len(rows) == 500
    assert set(labels[rows]) == set(classes)
    assert (np.diff(rows) > 0).all()
    rows, classes = choose(np.arange(3000) % 3)
    assert (len(rows), classes) == (1000, [0, 1, 2])
    assert (rows == choose(np.arange(3000) % 3)[0]).all()


@pytest.mark.parametrize(("count", "expected"), [(2, 1.0), (10, 3.0), (91, 30.0), (1000, 30.0)])
def test_perplexity_fits_the_number_of_images(count: int, expected: float) -> None:
    assert perplexity(count) == expected


def test_nearest_places_are_of_the_same_class() -> None:
    features = clusters(90, 3)
    places = place(features.values)
    distances = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(90)
    assert (features.labels[distances.argmin(axis=1)] == features.labels).all()
    assert (places == place(features.values)).all()


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_few_or_equal_features_still_have_places(count: int) -> None:
    places = place(np.full((count, 4), 0.5, np.float32))
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()


def test_the_picture_says_what_it_is(tmp_path: Path) -> None:
    draw_map(tmp_path / "pictures" / "map.png", clusters(60, 12), "k-NN top-1 50.0 % (k 1)")
    (picture,), _ = find_pictures(tmp_path)
    assert picture.kind == MAP
    for part in ("50 images", "set:test", "10 of 12 classes", "perplexity 16", "seed 0", "k-NN top-1 50.0 % (k 1)"):
        assert part in picture.caption
    with PIL.Image.open(picture.path) as drawn:
        assert drawn.size == (800, 880)
        assert len(drawn.getcolors(1 << 20)) > 10
