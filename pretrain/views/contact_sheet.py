"""Picture of the views that the network sees: one row per image, one column per view."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import PIL.Image
import PIL.ImageDraw

from core.data.base import ImageSet
from core.data.order import epoch_order
from core.errors import UserError
from pretrain.build_losses import loss_draws
from pretrain.config import PretrainConfig
from pretrain.views.augment import augment
from pretrain.views.collate import Batch, collate
from pretrain.views.config import ViewConfig
from pretrain.views.dataset import Views

CELL = 128
"""Least height and width of the largest view on the sheet, in pixels; smaller views keep their proportion to it."""
GAP = 4
TITLE = 16


def draw_views(images: ImageSet, config: PretrainConfig, path: Path, rows: int = 8) -> None:
    """Writes to `path` (PNG, JPEG, …) the views of the first `rows` images of a run with `config`."""
    views = Views(images, config.views, config.seed, config.resampler, config.auxiliary_views(), loss_draws(config))
    positions = epoch_order(len(images), config.seed, 0)[:rows]
    draw_batch(collate([views[0, int(position)] for position in positions]), config.views, path)


def draw_batch(batch: Batch, config: Mapping[str, ViewConfig], path: Path) -> None:
    """Writes all views of a batch to `path`, augmented but not normalised.

    A column's title is the view type, the number of the view within the type, and its size.
    """
    zoom = -(-CELL // max(config[name].size for name in batch.views))
    cell = zoom * max(config[name].size for name in batch.views)
    columns = [(name, number, view) for name, views in batch.views.items() for number, view in enumerate(views)]
    rows = len(batch.index)
    sheet = PIL.Image.new("RGB", (len(columns) * (cell + GAP) + GAP, rows * (cell + GAP) + GAP + TITLE), "white")
    pen = PIL.ImageDraw.Draw(sheet)
    for column, (name, number, view) in enumerate(columns):
        left = GAP + column * (cell + GAP)
        size = config[name].size
        pen.text((left, GAP // 2), f"{name} {number + 1} ({size} px)", fill="black")
        seen = augment(view.images, view.parameters, config[name], (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        pixels = seen.mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        margin = (cell - zoom * size) // 2
        for row in range(rows):
            picture = PIL.Image.fromarray(pixels[row]).resize((zoom * size, zoom * size), PIL.Image.Resampling.NEAREST)
            sheet.paste(picture, (left + margin, TITLE + GAP + row * (cell + GAP) + margin))
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:  # no such folder; an ending that names no format
        raise UserError(f"can't write the picture {path}: {error}; give a file such as views.png") from None
