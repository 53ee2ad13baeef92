"""Picture of the views that the network sees: one row per image, the source with its crops, one column per view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import torch

from core.data.base import ImageSet
from core.data.order import epoch_order
from core.errors import UserError
from pretrain.build_losses import loss_pictures, open_views
from pretrain.config import PretrainConfig
from pretrain.views.augment import augment
from pretrain.views.collate import Batch, View, collate
from pretrain.views.config import ViewConfig

CELL = 128
"""Least height and width of the largest view on the sheet, in pixels; smaller views keep their proportion to it."""
GAP = 4
TITLE = 16
COLOURS = ("red", "blue", "green", "darkorange", "purple", "teal")
"""Colours of the boxes of the first, second, … view type, and of its titles."""


@dataclass(frozen=True)
class Column:
    """One picture per image."""

    title: str
    pictures: Sequence[PIL.Image.Image]
    """Pictures that fit into a cell; they are centred in it."""
    colour: str = "black"
    """Colour of the title."""


def draw_views(images: ImageSet, config: PretrainConfig, path: Path, rows: int = 8) -> None:
    """Writes to `path` (PNG, JPEG, …) the views of the first `rows` images of a run with `config`.

    The first column is the source with the box of each view, in the colour of its view type; losses that change their
    views further, such as jigsaw, add a column behind them.
    """
    views = open_views(images, config)
    positions = epoch_order(len(images), config.seed, 0)[:rows]
    batch = collate([views[0, int(position)] for position in positions])
    zoom = _zoom(config.views)
    cell = zoom * max(view.size for view in config.views.values())
    boxes = [_with_boxes(images.image(int(index)), batch, row, cell) for row, index in enumerate(batch.index.tolist())]
    columns = [Column("source", boxes), *view_columns(batch, config.views)]
    for name, (view, picture) in loss_pictures(config).items():
        for number, of_type in enumerate(batch.views[view]):
            seen = picture(_seen(of_type, config.views[view]), of_type.parameters)
            columns.append(Column(f"{name} {number + 1}", _pictures(seen, zoom * config.views[view].size)))
    write_sheet(columns, cell, path)


def view_columns(batch: Batch, config: Mapping[str, ViewConfig]) -> list[Column]:
    """A column for each view of a batch, augmented but not normalised.

    Its title is the view type, the number of the view within the type, and its size.
    """
    zoom = _zoom(config)
    columns = []
    for place, (name, views) in enumerate(batch.views.items()):
        size = config[name].size
        for number, view in enumerate(views):
            pictures = _pictures(_seen(view, config[name]), zoom * size)
            columns.append(Column(f"{name} {number + 1} ({size} px)", pictures, COLOURS[place % len(COLOURS)]))
    return columns


def write_sheet(columns: Sequence[Column], cell: int, path: Path) -> None:
    """Writes the columns side by side, each picture in the middle of a cell of `cell`² pixels."""
    rows = len(columns[0].pictures)
    sheet = PIL.Image.new("RGB", (len(columns) * (cell + GAP) + GAP, rows * (cell + GAP) + GAP + TITLE), "white")
    pen = PIL.ImageDraw.Draw(sheet)
    for place, column in enumerate(columns):
        left = GAP + place * (cell + GAP)
        pen.text((left, GAP // 2), column.title, fill=column.colour)
        for row, picture in enumerate(column.pictures):
            top = TITLE + GAP + row * (cell + GAP)
            sheet.paste(picture, (left + (cell - picture.width) // 2, top + (cell - picture.height) // 2))
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:  # no such folder; an ending that names no format
        raise UserError(f"can't write the picture {path}: {error}; give a file such as views.png") from None


def _zoom(config: Mapping[str, ViewConfig]) -> int:
    return -(-CELL // max(view.size for view in config.values()))


def _seen(view: View, config: ViewConfig) -> torch.Tensor:
    """Views [B, 3, S, S] in 0 … 1."""
    return augment(view.images, view.parameters, config, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def _pictures(images: torch.Tensor, side: int) -> list[PIL.Image.Image]:
    """Images [B, 3, S, S] in 0 … 1, enlarged to `side` pixels without interpolation."""
    pixels = images.mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [PIL.Image.fromarray(one).resize((side, side), PIL.Image.Resampling.NEAREST) for one in pixels]


def _with_boxes(source: PIL.Image.Image, batch: Batch, row: int, cell: int) -> PIL.Image.Image:
    """The source of row `row`, reduced or enlarged to a longer side of `cell` pixels, with the boxes of its views."""
    scale = cell / max(source.size)
    width, height = (max(1, round(length * scale)) for length in source.size)
    picture = source.convert("RGB").resize((width, height), PIL.Image.Resampling.BILINEAR)
    pen = PIL.ImageDraw.Draw(picture)
    for place, views in enumerate(batch.views.values()):
        for view in views:
            left, top, box_width, box_height = (scale * np.asarray(view.parameters["box"][row], dtype=float)).tolist()
            corners = (left, top, min(left + box_width, width) - 1, min(top + box_height, height) - 1)
            pen.rectangle(corners, outline=COLOURS[place % len(COLOURS)], width=2)
    return picture
