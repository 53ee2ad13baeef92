"""Corruptions: closed forms, repeatable, monotone in severity, alike at every size."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

from core.data.corruptions import CORRUPTIONS, Corrupted, corrupt, parse_corruption
from core.data.corruptions.tables import SEVERITIES, SIDES, parameters
from core.data.scenes.image_set import Scenes
from core.data.scenes.render import ScenesConfig
from core.errors import UserError

SCENES = Scenes("test", ScenesConfig(size=64, test=4))
IMAGE = SCENES.image(0)


def difference(name: str, severity: int) -> float:
    changed = np.asarray(corrupt(IMAGE, name, severity, 0, 0), np.float64)
    return float(np.abs(changed - np.asarray(IMAGE, np.float64)).mean())


def test_fourteen_at_five_severities_and_three_sizes() -> None:
    assert len(CORRUPTIONS) == 14
    for tables in SEVERITIES.values():
        assert sorted(tables) == sorted(SIDES)
        assert {len(table) for table in tables.values()} == {5}
    assert parameters("gaussian_noise", 5, 256) == 0.38
    assert parameters("gaussian_noise", 1, 40) == parameters("gaussian_noise", 1, 32)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_changes_the_image_more_the_more_severe_it_is(name: str) -> None:
    assert difference(name, 5) > difference(name, 1) * (0.8 if name in ("elastic_transform", "glass_blur") else 1.0)
    assert difference(name, 1) > 0.05
    again = corrupt(IMAGE, name, 3, 0, 0)
    assert again.size == IMAGE.size
    assert (np.asarray(again) == np.asarray(corrupt(IMAGE, name, 3, 0, 0))).all()


def test_closed_forms() -> None:
    grey = PIL.Image.new("RGB", (64, 64), (100, 100, 100))
    for name in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "contrast", "elastic_transform", "pixelate"):
        assert (np.asarray(corrupt(grey, name, 5, 0, 0)) == 100).all(), f"{name} leaves a constant image"
    assert (np.asarray(corrupt(grey, "brightness", 3, 0, 0)) == round(255 * (100 / 255 + 0.3))).all()
    noise = np.asarray(corrupt(grey, "gaussian_noise", 2, 0, 0), np.float64)
    assert noise.std() / 255 == pytest.approx(0.08, rel=0.05)
    shot = np.asarray(corrupt(grey, "shot_noise", 1, 0, 0), np.float64) / 255
    assert shot.var() == pytest.approx(100 / 255 / 250, rel=0.1)
    impulse = np.asarray(corrupt(grey, "impulse_noise", 5, 0, 0))
    assert ((impulse == 0) | (impulse == 255)).mean() == pytest.approx(0.14, rel=0.1)
    step = np.asarray(PIL.Image.fromarray(np.kron([[0, 255]], np.ones((64, 32))).astype(np.uint8)).convert("RGB"))
    halved = np.asarray(corrupt(PIL.Image.fromarray(step), "contrast", 1, 0, 0), np.float64)
    assert np.ptp(halved) == pytest.approx(0.4 * 255, abs=1)


def test_random_numbers_depend_on_seed_image_and_severity() -> None:
    one, other_image, other_seed = (
        np.asarray(corrupt(IMAGE, "gaussian_noise", 2, *key)) for key in ((0, 0), (0, 1), (1, 0))
    )
    assert (one != other_image).any()
    assert (one != other_seed).any()
    images = Corrupted(SCENES, "fog", 2)
    assert (np.asarray(images.image(0)) == np.asarray(corrupt(IMAGE, "fog", 2, 0, 0))).all()
    digests = {Corrupted(SCENES, name, severity).digest() for name in ("fog", "snow") for severity in (1, 2)}
    assert len(digests) == 4
    assert (images.label(1), len(images)) == (SCENES.label(1), 4)


@pytest.mark.parametrize("text", ["frost:1", "fog", "fog:0", "fog:6", "fog:x"])
def test_names_are_checked(text: str) -> None:
    with pytest.raises(UserError, match="corruption"):
        parse_corruption(text)
    assert parse_corruption("fog:3") == ("fog", 3)
