"""The source photographs: free to use, found on disk, and without a pixel shared between splits."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

from core.data.scenes import photographs
from core.data.scenes.photographs import PHOTOGRAPHS, SPLITS, regions, tiles
from core.data.scenes.render import BACKGROUNDS, CLASSES
from core.errors import UserError


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_splits_share_no_pixel_of_a_photograph(name):
    left, top, right, bottom = PHOTOGRAPHS[name].box
    owners = np.zeros((bottom, right), dtype=int)
    for split in SPLITS:
        for x0, y0, x1, y1 in regions(name, split):
            owners[y0:y1, x0:x1] += 1
    assert (owners[top:bottom, left:right] == 1).all()
    assert owners.sum() == (right - left) * (bottom - top)
    areas = [sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in regions(name, split)) for split in SPLITS]
    assert max(areas) < 1.05 * min(areas)


def test_tiles_are_the_regions_of_the_photograph_itself():
    with PIL.Image.open(photographs.data_folder() / "astronaut.png") as opened:
        whole = np.asarray(opened.convert("RGB"))
    for split in SPLITS:
        for tile, (x0, y0, x1, y1) in zip(tiles("astronaut", split), regions("astronaut", split), strict=True):
            np.testing.assert_array_equal(np.asarray(tile), whole[y0:y1, x0:x1])


def test_boxes_of_photographs_lie_within_them():
    for name, photograph in PHOTOGRAPHS.items():
        with PIL.Image.open(photographs.data_folder() / photograph.file) as opened:
            width, height = opened.size
        left, top, right, bottom = photograph.box
        assert 0 <= left < right <= width, name
        assert 0 <= top < bottom <= height, name
        assert photograph.licence.startswith(("CC0", "public domain")), name


def test_no_photograph_serves_two_purposes():
    used = [photograph for _, photograph in CLASSES.values()] + list(BACKGROUNDS)
    assert sorted(used) == sorted(PHOTOGRAPHS)


def test_missing_photographs_are_a_user_error(monkeypatch, tmp_path):
    uncached = photographs.tiles.__wrapped__
    monkeypatch.setattr(photographs, "data_folder", lambda: tmp_path)
    with pytest.raises(UserError, match=r"brick\.png.*pip install"):
        uncached("brick", "train")
    (tmp_path / "brick.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"brick\.png.*pip install"):
        uncached("brick", "train")


def test_missing_scikit_image_is_a_user_error(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install scikit-image"):
        photographs.data_folder()
