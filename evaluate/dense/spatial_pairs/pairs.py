"""Pairs of crops of one image, and the position and scale of the second as seen from the first."""

from __future__ import annotations

import math

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from core.data.base import ImageSet
from core.data.crop import draw_crop
from core.data.derived import Derived
from evaluate.common.labelled import SAMPLE_SEED
from evaluate.dense.spatial_pairs.protocol import PairConfig

Box = tuple[int, int, int, int]
"""Left, top, width, height in pixels."""


class PairCrops(Derived):
    """Crop number 0 or 1 of each pair: image i holds pair i % per_image of image i // per_image of `whole`."""

    labelled = False

    def __init__(self, whole: ImageSet, config: PairConfig, number: int, size: int, equalised: bool) -> None:
        name = f"{whole.name}, {'equalised ' if equalised else ''}crop {number + 1}"
        super().__init__(whole, name, config.per_image)
        self._config, self._number, self._size, self._equalised = config, number, size, equalised
        self._last: tuple[int, PIL.Image.Image] | None = None  # the pairs of an image follow one another

    def image(self, index: int) -> PIL.Image.Image:
        position, pair = divmod(index, self.each)
        if self._last is None or self._last[0] != position:
            self._last = (position, self.whole.image(position))
        image = self._last[1]
        left, top, width, height = draw_pair(image.size, self._config, position, pair)[self._number]
        crop = image.crop((left, top, left + width, top + height))
        if self._equalised:
            crop = crop.resize((self._config.equalised,) * 2, PIL.Image.Resampling.BICUBIC)
        return crop.resize((self._size, self._size), PIL.Image.Resampling.BICUBIC)

    def identity(self) -> str:
        return f"pairs {self._config} {self._number} {self._size} {self._equalised}"


def draw_pair(size: tuple[int, int], config: PairConfig, position: int, pair: int) -> tuple[Box, Box]:
    """Boxes of one pair, a function of the image's size (width, height), its position and the pair's number."""
    rng = np.random.default_rng((SAMPLE_SEED, position, pair))
    best: tuple[float, tuple[Box, Box]] | None = None
    for _ in range(config.tries):
        first, second = (draw_crop(*size, config.area, config.ratio, rng) for _ in range(2))
        shared = overlap(first, second)
        if best is None or shared < best[0]:
            best = (shared, (first, second))
        if not shared:
            break
    assert best is not None
    return best[1]


def overlap(first: Box, second: Box) -> float:
    """Shared pixels of two boxes."""
    sides = [
        max(0, min(first[axis] + first[axis + 2], second[axis] + second[axis + 2]) - max(first[axis], second[axis]))
        for axis in (0, 1)
    ]
    return float(sides[0] * sides[1])


def relation(first: Box, second: Box) -> tuple[float, float, float, float]:
    """dx, dy in units of the crops' own geometric mean size, and su, sv: logarithms of the size ratios.

    Antisymmetric, and independent of the image's resolution.
    """
    found = []
    for axis in (0, 1):
        centres = [box[axis] + box[axis + 2] / 2 for box in (first, second)]
        found.append((centres[1] - centres[0]) / math.sqrt(first[axis + 2] * second[axis + 2]))
    return found[0], found[1], math.log(second[2] / first[2]), math.log(second[3] / first[3])


def relations(whole: ImageSet, config: PairConfig, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Relation of each pair at `positions` of `PairCrops`, [n, 4]."""
    sizes: dict[int, tuple[int, int]] = {}
    rows = []
    for index in positions:
        position, pair = divmod(int(index), config.per_image)
        if position not in sizes:
            sizes = {position: whole.image(position).size}
        rows.append(relation(*draw_pair(sizes[position], config, position, pair)))
    return np.array(rows).reshape(-1, 4)
