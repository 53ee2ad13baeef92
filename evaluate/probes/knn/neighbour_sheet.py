"""Picture of queries and their nearest images, framed green if the class is the same and red if not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont

from core.data.base import ImageSet
from core.features import EvalTransformConfig, Features, eval_crop
from evaluate.common.pictures import save_picture
from evaluate.probes.knn.probe import NEIGHBOURS
from evaluate.probes.knn.search import Neighbours

_TILE = 96
_FRAME = 4
_GAP = 8
_CAPTION = 16
_TITLE = 30
_RIGHT, _WRONG, _INK, _PAPER = (34, 160, 70), (205, 45, 45), (30, 30, 30), (255, 255, 255)


@dataclass(frozen=True)
class PictureConfig:
    """Contents of the picture."""

    queries: int = 8
    """Rows: a seeded choice of this many queries (all, where there are fewer)."""
    neighbours: int = 8
    """Columns behind the query: its nearest images, nearest first."""


def draw_neighbours(
    path: Path,
    bank: ImageSet,
    images: ImageSet,
    queries: Features,
    neighbours: Neighbours,
    transform: EvalTransformConfig,
    title: str,
    seed: int,
    config: PictureConfig | None = None,
) -> None:
    """Writes a PNG: one row per query, the image as the backbone sees it, its class, and the cosine of each neighbour.

    `images`: the set that `queries` come from; `neighbours` [Q, k] belong to `queries` row by row.
    """
    config = config or PictureConfig()
    count = min(config.queries, len(queries.positions))
    rows = np.sort(np.random.default_rng((seed, 2)).permutation(len(queries.positions))[:count])
    columns = min(config.neighbours, neighbours.positions.shape[1])
    width = _GAP + (columns + 1) * (_TILE + _GAP) + _GAP
    height = _TITLE + count * (_TILE + _CAPTION + _GAP) + _GAP
    picture = PIL.Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(picture)
    _write(draw, (_GAP, 8), title, width - 2 * _GAP, size=14)
    for line, row in enumerate(rows):
        top = _TITLE + line * (_TILE + _CAPTION + _GAP)
        truth = int(queries.labels[row])
        _tile(picture, (_GAP, top), images, int(queries.positions[row]), transform, _INK)
        _write(draw, (_GAP, top + _TILE + 2), bank.classes[truth], _TILE)
        for column in range(columns):
            left = 2 * _GAP + (column + 1) * (_TILE + _GAP)
            label = int(neighbours.labels[row, column])
            colour = _RIGHT if label == truth else _WRONG
            _tile(picture, (left, top), bank, int(neighbours.positions[row, column]), transform, colour)
            caption = f"{neighbours.similarities[row, column]:.3f} {bank.classes[label]}"
            _write(draw, (left, top + _TILE + 2), caption, _TILE)
    save_picture(path, picture, NEIGHBOURS, title)


def _tile(
    picture: PIL.Image.Image,
    corner: tuple[int, int],
    images: ImageSet,
    position: int,
    transform: EvalTransformConfig,
    colour: tuple[int, int, int],
) -> None:
    inner = _TILE - 2 * _FRAME
    crop = PIL.Image.fromarray(eval_crop(images.image(position), transform))
    # Enlarged pixels stay visible as pixels: what looks blurred is blurred.
    way = PIL.Image.Resampling.NEAREST if transform.crop <= inner else PIL.Image.Resampling.BICUBIC
    picture.paste(PIL.Image.new("RGB", (_TILE, _TILE), colour), corner)
    picture.paste(crop.resize((inner, inner), way), (corner[0] + _FRAME, corner[1] + _FRAME))


def _write(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, room: int, size: int = 11) -> None:
    """One line, cut to `room` pixels."""
    font = ImageFont.load_default(size)
    shown = text
    while shown and draw.textlength(shown + ("" if shown == text else "…"), font=font) > room:
        shown = shown[:-1]
    draw.text(corner, shown if shown == text else shown + "…", fill=_INK, font=font)
