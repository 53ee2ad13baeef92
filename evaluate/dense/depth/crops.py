"""Training crops of images with depth: border, rotation, flip, place and colours, the same for image and depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from core.data.base import ImageSet
from core.data.broken import decode_or_replace
from core.data.order import GlobalBatches
from core.errors import UserError
from evaluate.common.context import RunContext
from evaluate.dense.depth.data import depth_of
from evaluate.dense.depth.protocol import DepthCropConfig
from evaluate.probes.training_views import batches_of

Crop = tuple[NDArray[np.uint8], NDArray[np.float32], list[str]]
"""Pixels uint8 [h, w, 3], depth in metres [h, w], names of broken images met on the way."""


class DepthCrops(Dataset[Crop]):
    """One crop per (epoch, position), a pure function of these and the seed; broken images are replaced."""

    def __init__(self, images: ImageSet, config: DepthCropConfig, seed: int) -> None:
        self._images, self._config, self._seed = images, config, seed

    def __getitem__(self, key: tuple[int, int]) -> Crop:
        rng = np.random.default_rng((self._seed, *key))
        image, index, broken = decode_or_replace(self._images, key[1], rng)
        where = self._images.describe(index)
        pixels, depth = draw_depth_crop(image, depth_of(self._images, index), self._config, rng, where)
        return pixels, depth, broken


def lower_middle(size: tuple[int, int], part: tuple[int, int]) -> tuple[int, int, int, int]:
    """Box of `part` (width, height) at the middle of the lower edge; smaller images are taken whole."""
    width, height = min(part[0], size[0]), min(part[1], size[1])
    left = (size[0] - width) // 2
    return left, size[1] - height, left + width, size[1]


def draw_depth_crop(
    image: PIL.Image.Image, depth: NDArray[np.float32], config: DepthCropConfig, rng: np.random.Generator, where: str
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A crop of image and depth; depth is 0 where rotation shows nothing. Raises `UserError` for too small an image."""
    map_ = PIL.Image.fromarray(depth)
    if config.bottom is not None:
        box = lower_middle(image.size, config.bottom)
        image, map_ = image.crop(box), map_.crop(box)
    if config.border is not None:
        image, map_ = image.crop(config.border), map_.crop(config.border)
    turn = (2 * rng.random() - 1) * config.rotation if rng.random() < 0.5 else 0.0
    if turn:
        image = image.rotate(turn, PIL.Image.Resampling.BILINEAR)
        map_ = map_.rotate(turn, PIL.Image.Resampling.NEAREST)
    width, height = config.size
    if image.width < width or image.height < height:
        raise UserError(
            f"{where} has {image.width}×{image.height} usable pixels, fewer than crop.size {width}×{height}; lower it"
        )
    left, top = (int(rng.random() * (room + 1)) for room in (image.width - width, image.height - height))
    box = (left, top, left + width, top + height)
    pixels, found = np.asarray(image.crop(box)), np.asarray(map_.crop(box))
    if rng.random() < config.flip:
        pixels, found = pixels[:, ::-1], found[:, ::-1]
    if rng.random() < config.colour:
        pixels = _coloured(pixels, rng)
    return np.ascontiguousarray(pixels), np.ascontiguousarray(found, np.float32)


def _coloured(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    gamma, brightness = 0.9 + 0.2 * rng.random(), 0.75 + 0.5 * rng.random()
    values = (pixels / 255.0) ** gamma * brightness * (0.9 + 0.2 * rng.random(3))
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)


def depth_batches(
    images: ImageSet, config: DepthCropConfig, batches: GlobalBatches, context: RunContext
) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    """This rank's part of each global batch: uint8 [b, h, w, 3], depth float32 [b, h, w], names of broken images."""
    return batches_of(DepthCrops(images, config, context.seed), _collate, batches, context)


def _collate(crops: Sequence[Crop]) -> tuple[Tensor, Tensor, list[str]]:
    pixels = torch.from_numpy(np.stack([crop[0] for crop in crops]))
    depths = torch.from_numpy(np.stack([crop[1] for crop in crops]))
    return pixels, depths, [name for crop in crops for name in crop[2]]
