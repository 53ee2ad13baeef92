"""The free photographs inside the scikit-image wheel, cut into disjoint regions, one set of regions per split."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import PIL.Image

from core.errors import UserError

SPLITS = ("pretrain", "train", "test")
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Photograph:
    """One source photograph: where it lies, why it may be used, and how it is cut up."""

    file: str
    """File name below `skimage/data`."""
    licence: str
    """Licence according to scikit-image's documentation of the image."""
    box: Box
    """The part that is used: left, top, right, bottom in pixels, half-open. Cuts away frames and black borders."""
    grid: tuple[int, int]
    """Rows and columns of tiles the part is cut into; three columns, so that every row has a tile for every split."""
    ink: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Gain of red, green and blue: gives black-and-white photographs a colour of their own."""


# Images of the wheel whose documentation names no licence (moon, motorcycle) or only says that no restrictions are
# known (coins, ihc) are left out on purpose.
PHOTOGRAPHS: dict[str, Photograph] = {
    "astronaut": Photograph("astronaut.png", "public domain (NASA)", (0, 0, 512, 512), (3, 3)),
    "brick": Photograph("brick.png", "CC0 (CC0Textures)", (0, 0, 512, 512), (3, 3), (1.25, 0.85, 0.7)),
    "camera": Photograph("camera.png", "CC0 (Lav Varshney)", (0, 0, 512, 512), (3, 3)),
    "cell": Photograph("cell.png", "CC0 (Müller et al.)", (0, 0, 550, 660), (3, 3), (0.95, 1.0, 1.15)),
    "chelsea": Photograph("chelsea.png", "CC0 (Stefan van der Walt)", (0, 0, 451, 300), (2, 3)),
    "clock": Photograph("clock_motion.png", "public domain (Stefan van der Walt)", (0, 0, 400, 300), (2, 3)),
    "coffee": Photograph("coffee.png", "CC0 (Rachel Michetti)", (0, 0, 600, 400), (2, 3)),
    "grass": Photograph("grass.png", "CC0 (linolafett)", (0, 0, 512, 512), (3, 3), (0.75, 1.2, 0.6)),
    "gravel": Photograph("gravel.png", "CC0 (CC0Textures)", (0, 0, 512, 512), (3, 3), (1.1, 1.0, 0.85)),
    "hubble": Photograph("hubble_deep_field.jpg", "public domain (NASA)", (0, 0, 1000, 872), (3, 3), (1.8, 1.8, 1.8)),
    "retina": Photograph("retina.jpg", "CC0 (Mikael Häggström)", (270, 270, 1140, 1140), (3, 3)),
    "rocket": Photograph("rocket.jpg", "public domain (SpaceX)", (0, 0, 640, 427), (2, 3)),
    "text": Photograph("text.png", "public domain", (0, 0, 448, 172), (1, 3), (0.8, 0.95, 1.2)),
}


def regions(name: str, split: str) -> list[Box]:
    """The tiles of photograph `name` that belong to `split`, as pixel boxes (left, top, right, bottom), half-open.

    Tile (row, column) goes to split (row + column) mod 3: every split has a tile in each row, in different columns,
    and no pixel belongs to two splits.
    """
    photograph = PHOTOGRAPHS[name]
    left, top, right, bottom = photograph.box
    rows, columns = photograph.grid
    xs = [left + (right - left) * column // columns for column in range(columns + 1)]
    ys = [top + (bottom - top) * row // rows for row in range(rows + 1)]
    return [
        (xs[column], ys[row], xs[column + 1], ys[row + 1])
        for row in range(rows)
        for column in range(columns)
        if (row + column) % len(SPLITS) == SPLITS.index(split)
    ]


def data_folder() -> Path:
    """The folder `skimage/data` of the installed scikit-image, found without importing it."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the scenes need the photographs of scikit-image: run `pip install scikit-image`")
    return Path(spec.submodule_search_locations[0]) / "data"


@cache
def tiles(name: str, split: str) -> tuple[PIL.Image.Image, ...]:
    """The regions of photograph `name` for `split`, as RGB images of their own, kept for the life of the process.

    A resampling filter that reaches over the edge of a crop can't reach over the edge of these.

    Raises:
        UserError: if the photograph is missing or can't be decoded.
    """
    photograph = PHOTOGRAPHS[name]
    path = data_folder() / photograph.file
    try:
        with PIL.Image.open(path) as opened:
            whole = np.asarray(opened.convert("RGB"))
    except OSError as error:
        raise UserError(
            f"can't read {path}, a photograph the scenes need: run `pip install --force-reinstall scikit-image`"
        ) from error
    parts = [whole[top:bottom, left:right] for left, top, right, bottom in regions(name, split)]
    inked = [np.rint(np.minimum(part * np.array(photograph.ink), 255)).astype(np.uint8) for part in parts]
    return tuple(PIL.Image.fromarray(part) for part in inked)


@cache
def pixels_digest(split: str) -> str:
    """sha256 (hex) of the decoded pixels of every region of `split`: another decoder or another wheel shows in it."""
    digest = hashlib.sha256()
    for name in PHOTOGRAPHS:
        for tile in tiles(name, split):
            digest.update(f"{name} {tile.size}".encode() + tile.tobytes())
    return digest.hexdigest()
