"""The contact sheet: size, and views in their places."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from core.data.order import epoch_order
from core.errors import UserError
from pretrain.config import AuxiliaryConfig, PretrainConfig
from pretrain.heads import HeadConfig
from pretrain.views.collate import Batch, View
from pretrain.views.config import PhotometricConfig, ViewConfig
from pretrain.views.contact_sheet import draw_views, view_columns, write_sheet
from pretrain.views.dataset import draw_photometric

PLAIN = PhotometricConfig(flip=0.0, jitter_p=0.0, grey_p=0.0, blur_p=0.0)


def flat(colours: list[tuple[int, int, int]], size: int) -> View:
    """One image of a single colour for each of `colours`."""
    images = torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, size, size)
    drawn = [draw_photometric(PLAIN, np.random.default_rng(0)) for _ in colours]
    return View(images, {name: np.stack([one[name] for one in drawn]) for name in drawn[0]})


def test_rows_are_images_and_columns_are_views(tmp_path: Path) -> None:
    red, green, blue, grey = (200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)
    views = {"global": [flat([red, green], 64), flat([blue, red], 64)], "local": [flat([grey, blue], 32)]}
    config = {
        "global": ViewConfig(count=2, size=64, photometric=(PLAIN,)),
        "local": ViewConfig(count=1, size=32, photometric=(PLAIN,)),
    }
    write_sheet(view_columns(Batch(views, torch.arange(2), []), config), 128, tmp_path / "views.png")
    with PIL.Image.open(tmp_path / "views.png") as sheet:
        assert sheet.size == (3 * 132 + 4, 2 * 132 + 4 + 16)
        middles = [
            [sheet.getpixel((4 + 132 * column + 64, 20 + 132 * row + 64)) for column in range(3)] for row in range(2)
        ]
        assert middles == [[red, blue, grey], [green, red, blue]]
        # the small view is shown at half the large one's scale, centred
        assert sheet.getpixel((4 + 264 + 33, 20 + 64)) == grey
        assert sheet.getpixel((4 + 264 + 31, 20 + 64)) == (255, 255, 255)


class Flat:
    """Image i is of the single grey value 20 · i."""

    name = "flat"
    classes = ()

    def __len__(self) -> int:
        return 10

    def image(self, index: int) -> PIL.Image.Image:
        return PIL.Image.new("RGB", (40, 30), (20 * index,) * 3)

    def label(self, index: int) -> int:
        return -1

    def describe(self, index: int) -> str:
        return str(index)

    def digest(self) -> str:
        return ""


def test_the_first_images_of_the_first_epoch_are_drawn(tmp_path: Path) -> None:
    config = PretrainConfig(seed=4, views={"global": ViewConfig(count=2, size=128, photometric=(PLAIN,))})
    draw_views(Flat(), config, tmp_path / "views.png", rows=3)
    with PIL.Image.open(tmp_path / "views.png") as sheet:
        assert sheet.size == (3 * 132 + 4, 3 * 132 + 4 + 16)
        for row, position in enumerate(epoch_order(10, 4, 0)[:3]):
            assert sheet.getpixel((132 + 68, 84 + 132 * row)) == (20 * position,) * 3


def test_boxes_lie_over_the_source_and_tiles_beside_their_view(tmp_path: Path) -> None:
    whole = ViewConfig(count=1, size=66, area=(1, 1), ratio=(1, 2), photometric=(PLAIN,))
    config = PretrainConfig(
        views={"global": replace(whole, count=2), "puzzle": whole},
        auxiliary={"jigsaw": AuxiliaryConfig(view="puzzle")},
        projector=HeadConfig((8,)),
        predictor=HeadConfig((8,)),
    )
    draw_views(Flat(), config, tmp_path / "views.png", rows=2)
    with PIL.Image.open(tmp_path / "views.png") as sheet:
        cell = 132
        assert sheet.width == 5 * (cell + 4) + 4  # source, two global views, the puzzle, its tiles
        left, top = 4, 20 + (cell - 99) // 2  # 40 × 30 px, shown as 132 × 99
        assert sheet.getpixel((left, top)) == (0, 0, 255)  # the puzzle's box, drawn last, spans the image
        assert sheet.getpixel((left + 3, top + 3)) != (0, 0, 255)
        grey = sheet.getpixel((4 + 3 * (cell + 4) + 20, 40))
        assert sheet.getpixel((4 + 4 * (cell + 4) + 20, 40)) == grey
        assert sheet.getpixel((4 + 4 * (cell + 4) + 43, 40)) == (0, 0, 0)  # the line between two tiles


@pytest.mark.parametrize("name", ["views.txt", "nowhere/views.png"])
def test_a_picture_that_cannot_be_written_is_the_users_mistake(tmp_path: Path, name: str) -> None:
    config = {"global": ViewConfig(count=1, size=64, photometric=(PLAIN,))}
    batch = Batch({"global": [flat([(1, 2, 3)], 64)]}, torch.arange(1), [])
    with pytest.raises(UserError, match=rf"{tmp_path}.*\.png"):
        write_sheet(view_columns(batch, config), 128, tmp_path / name)
