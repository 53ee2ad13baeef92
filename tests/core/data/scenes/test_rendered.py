"""core/data/scenes/rendered.py: kept scenes are those that are drawn; damage and a full disk cost time only."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from core.data.scenes import image_set
from core.data.scenes.image_set import Scenes
from core.data.scenes.render import ScenesConfig
from core.data.scenes.rendered import RenderedPlane

SMALL = ScenesConfig(size=32, pretrain=3)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path))
    return tmp_path / "rendered"


def test_the_second_time_nothing_is_drawn(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = Scenes("pretrain", SMALL)
    drawn = [scenes.scene(index).image for index in range(3)]
    assert all(np.array_equal(np.asarray(scenes.image(index)), drawn[index]) for index in range(3))
    monkeypatch.setattr(image_set, "render", None)
    for kept in (scenes, Scenes("pretrain", SMALL), pickle.loads(pickle.dumps(scenes))):
        assert all(np.array_equal(np.asarray(kept.image(index)), drawn[index]) for index in range(3))
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(TypeError):  # the damaged one is drawn again
        scenes.image(0)
    assert np.array_equal(np.asarray(scenes.image(1)), drawn[1])


def test_other_scenes_have_a_file_of_their_own(cache: Path) -> None:
    for config in (SMALL, ScenesConfig(size=32, pretrain=3, seed=1)):
        scenes = Scenes("pretrain", config)
        assert np.array_equal(np.asarray(scenes.image(0)), scenes.scene(0).image)
    assert len(list(cache.iterdir())) == 2


def test_without_room_or_permission_scenes_are_drawn(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "pwrite", full)
    scenes = Scenes("pretrain", SMALL)
    assert np.array_equal(np.asarray(scenes.image(0)), scenes.scene(0).image)
    assert np.array_equal(np.asarray(scenes.image(0)), scenes.scene(0).image)
    cache.parent.joinpath("file").write_bytes(b"")
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(cache.parent / "file"))
    assert RenderedPlane("x", 1, (2, 2), np.uint8).get(0) is None
