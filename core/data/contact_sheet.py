"""A picture of the first scenes beside their annotations, for people to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
from numpy.typing import NDArray

from core.data.scene_sets import Scenes
from core.data.scenes import Scene, ScenesConfig

GAP = 2
COLOURS = np.array(
    [
        (0, 0, 0),
        (230, 60, 60),
        (60, 170, 75),
        (255, 220, 50),
        (70, 100, 220),
        (245, 130, 50),
        (150, 50, 180),
        (70, 220, 235),
        (240, 90, 225),
    ],
    dtype=np.uint8,
)
"""Colour of background and classes in the semantic map, [9, 3]."""


def contact_sheet(config: ScenesConfig, path: Path, split: str = "train", rows: int = 4, columns: int = 3) -> None:
    """Writes the first `rows` × `columns` scenes to the picture `path`.

    Each scene is four panels: the image, the image with boxes and instance masks, the semantic map, the depth
    (near is bright).
    """
    scenes = Scenes(split, config)
    step = config.size + GAP
    sheet = np.full((rows * step, columns * (4 * step + 4 * GAP), 3), 255, dtype=np.uint8)
    for cell in range(min(rows * columns, len(scenes))):
        row, column = divmod(cell, columns)
        for panel, pixels in enumerate(_panels(scenes.scene(cell))):
            left = column * (4 * step + 4 * GAP) + panel * step
            sheet[row * step : row * step + config.size, left : left + config.size] = pixels
    PIL.Image.fromarray(sheet).save(path)


def _panels(scene: Scene) -> list[NDArray[np.uint8]]:
    marked = scene.image // 2
    for label, mask in zip(scene.labels, scene.masks, strict=True):
        marked[mask] += COLOURS[label + 1] // 2
    drawing = PIL.Image.fromarray(marked)
    pen = PIL.ImageDraw.Draw(drawing)
    for left, top, right, bottom in scene.boxes:
        pen.rectangle((left, top, right - 1, bottom - 1), outline=(255, 255, 255))
    near = (255 * scene.depth.min() / scene.depth).astype(np.uint8)
    return [scene.image, np.asarray(drawing), COLOURS[scene.semantic], np.repeat(near[..., None], 3, axis=2)]
