"""Two views of one scene by a known warp: crops, flips and colours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from torchvision.transforms import functional as transforms

from core.data.base import ImageSet
from core.data.derived import Derived
from evaluate.common.labelled import SAMPLE_SEED
from evaluate.dense.keypoints.protocol import WarpConfig


@dataclass(frozen=True)
class Warp:
    """Place of a square view in its scene."""

    left: float
    top: float
    side: float
    """All in pixels of the scene."""
    flipped: bool
    size: int
    """Side of the view in pixels."""

    def to_scene(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Points (x, y) of the view in pixels of the scene, [N, 2]."""
        x = self.size - points[:, 0] if self.flipped else points[:, 0]
        return np.stack(
            [self.left + x * self.side / self.size, self.top + points[:, 1] * self.side / self.size], axis=1
        )

    def from_scene(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """The inverse of `to_scene`; points may lie outside of the view."""
        x, y = ((points[:, axis] - (self.left, self.top)[axis]) * self.size / self.side for axis in (0, 1))
        return np.stack([self.size - x if self.flipped else x, y], axis=1)


class WarpedView(Derived):
    """View 0 or 1 of each scene, a function of the scene's position and the view's number."""

    labelled = False

    def __init__(self, whole: ImageSet, config: WarpConfig, number: int, side: int, size: int) -> None:
        """`side`: of the square scenes in pixels; `size`: of the view."""
        super().__init__(whole, f"{whole.name}, view {number + 1}")
        self._config, self._number, self._side, self._size = config, number, side, size

    def warp(self, index: int) -> Warp:
        """Place of view `index` in its scene."""
        rng = self._generator(index)
        low, high = self._config.share
        side = (low + (high - low) * rng.random()) * self._side
        left, top = ((self._side - side) * rng.random() for _ in range(2))
        return Warp(left, top, side, bool(rng.random() < self._config.flip), self._size)

    def _generator(self, index: int) -> np.random.Generator:
        return np.random.default_rng((SAMPLE_SEED, index, self._number))

    def image(self, index: int) -> PIL.Image.Image:
        warp = self.warp(index)
        box = (warp.left, warp.top, warp.left + warp.side, warp.top + warp.side)
        view = self.whole.image(index).resize((self._size, self._size), PIL.Image.Resampling.BILINEAR, box=box)
        if warp.flipped:
            view = view.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
        spread, draws = self._config.colour, np.random.default_rng((SAMPLE_SEED, index, self._number, 1)).random(2)
        view = transforms.adjust_brightness(view, 1 - spread + 2 * spread * float(draws[0]))
        return transforms.adjust_contrast(view, 1 - spread + 2 * spread * float(draws[1]))

    def identity(self) -> str:
        return f"view {self._config} {self._number} {self._side} {self._size}"
