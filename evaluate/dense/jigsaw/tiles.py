"""Tiles of images, images put together from their cells, and the order that a probe's scores give."""

from __future__ import annotations

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from core.data.base import ImageSet
from core.data.derived import Derived
from core.features import EvalTransformConfig, eval_crop
from evaluate.common.labelled import SAMPLE_SEED


class _View(Derived):
    """Images made from those of `whole`, `each` of one."""

    def __init__(self, whole: ImageSet, transform: EvalTransformConfig, each: int, identity: str) -> None:
        super().__init__(whole, each=each)
        self._transform, self._identity = transform, identity
        self._last: tuple[int, NDArray[np.uint8]] | None = None  # the tiles of an image follow one another

    def _pixels(self, position: int) -> NDArray[np.uint8]:
        if self._last is None or self._last[0] != position:
            self._last = (position, eval_crop(self.whole.image(position), self._transform))
        return self._last[1]

    def identity(self) -> str:
        return f"{self._identity} {self._transform}"


class Tiles(_View):
    """One tile of each cell, row by row: image i is tile i % g² of image i // g²."""

    def __init__(self, whole: ImageSet, transform: EvalTransformConfig, grid: int, share: float, size: int) -> None:
        super().__init__(whole, transform, grid**2, f"tiles {grid} {share} {size}")
        self._grid, self._share, self._size = grid, share, size

    def image(self, index: int) -> PIL.Image.Image:
        position, place = divmod(index, self.each)
        pixels = self._pixels(position)
        cell = len(pixels) // self._grid
        side = max(1, round(cell * self._share))
        rng = np.random.default_rng((SAMPLE_SEED, position, place))
        top, left = ((place // self._grid) * cell, (place % self._grid) * cell)
        top, left = top + int(rng.integers(cell - side + 1)), left + int(rng.integers(cell - side + 1))
        tile = PIL.Image.fromarray(pixels[top : top + side, left : left + side])
        return tile.resize((self._size, self._size), PIL.Image.Resampling.BICUBIC)


class Reassembled(_View):
    """Images whose cells are moved: the cell of place p is shown at place `orders[image, p]`."""

    def __init__(self, whole: ImageSet, transform: EvalTransformConfig, grid: int, orders: NDArray[np.int64]) -> None:
        super().__init__(whole, transform, 1, f"reassembled {grid} {orders.tolist()}")
        self._grid, self._orders = grid, orders

    def image(self, index: int) -> PIL.Image.Image:
        return PIL.Image.fromarray(moved_cells(self._pixels(index), self._grid, self._orders[index]))


def moved_cells(pixels: NDArray[np.uint8], grid: int, order: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Image [S, S, 3] with the cell of place p at place order[p]; the identity gives back the image."""
    cell = len(pixels) // grid
    found = np.empty_like(pixels)
    for old, new in enumerate(order):
        (row, column), (down, across) = divmod(old, grid), divmod(int(new), grid)
        source = pixels[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
        found[down * cell : (down + 1) * cell, across * cell : (across + 1) * cell] = source
    return found


def permutations(images: int, places: int, seed: int) -> NDArray[np.int64]:
    """A uniform permutation for each image, [images, places]."""
    return np.stack([np.random.default_rng((seed, number, 7)).permutation(places) for number in range(images)])


def decoded(scores: NDArray[np.floating], shuffles: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place given to each tile by the assignment of the largest summed score, [images, tiles].

    scores [images, tiles, places] of tiles in their true order; the tiles come in the order of `shuffles`, so that
    equal scores reveal nothing about it.
    """
    found = np.empty(scores.shape[:2], np.int64)
    for own, shuffle, row in zip(scores, shuffles, found, strict=True):
        tiles, places = linear_sum_assignment(-own[shuffle])
        row[shuffle[tiles]] = places
    return found


def puzzle_scores(orders: NDArray[np.int64], grid: int) -> dict[str, float]:
    """Percent of tiles in their place, of whole puzzles, and of adjacent places with true neighbours.

    orders [images, tiles]: place given to each tile, whose own number is its true place.
    """
    images, tiles = orders.shape
    right = orders == np.arange(tiles)
    at = np.argsort(orders, axis=1).reshape(images, grid, grid)  # tile at each place
    across = (at[:, :, 1:] - at[:, :, :-1] == 1) & (at[:, :, :-1] % grid < grid - 1)
    down = at[:, 1:] - at[:, :-1] == grid
    pairs = across.sum() + down.sum()
    return {
        "place": 100 * float(right.mean()),
        "whole": 100 * float(right.all(1).mean()),
        "neighbours": 100 * float(pairs / (images * 2 * grid * (grid - 1))),
    }
