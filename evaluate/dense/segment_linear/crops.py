"""Training crops of images with class maps: random size, place, flip and colour, the same for image and labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import functional as transforms

from core.data.base import ImageSet
from core.data.broken import decode_or_replace
from core.data.order import GlobalBatches
from evaluate.common.context import RunContext
from evaluate.dense.data import IGNORED, semantic_of
from evaluate.dense.segment_linear.protocol import CropConfig
from evaluate.probes.training_views import batches_of

Crop = tuple[NDArray[np.uint8], NDArray[np.uint8], list[str]]
"""Pixels uint8 [S, S, 3], class of each pixel [S, S], names of broken images met on the way."""


class TrainingCrops(Dataset[Crop]):
    """One crop per (epoch, position), a pure function of these and the seed; broken images are replaced."""

    def __init__(self, images: ImageSet, config: CropConfig, size: int, seed: int) -> None:
        self._images, self._config, self._size, self._seed = images, config, size, seed

    def __getitem__(self, key: tuple[int, int]) -> Crop:
        rng = np.random.default_rng((self._seed, *key))
        image, index, broken = decode_or_replace(self._images, key[1], rng)
        pixels, classes = draw_crop(image, semantic_of(self._images, index), self._config, self._size, rng)
        return pixels, classes, broken


def draw_crop(
    image: PIL.Image.Image, classes: NDArray[np.uint8], config: CropConfig, size: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A crop of size × size pixels; what lies outside of the image is black and ignored."""
    factor = config.ratio[0] + (config.ratio[1] - config.ratio[0]) * rng.random()
    scale = factor * size / min(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    left, top = (int(rng.random() * (max(0, side - size) + 1)) for side in (width, height))
    # Only the crop is resampled; `box` is its place in the image.
    box = tuple(value / scale for value in (left, top, min(left + size, width), min(top + size, height)))
    box = (box[0], box[1], min(box[2], image.width), min(box[3], image.height))
    shown = (min(size, width), min(size, height))
    part = image.resize(shown, PIL.Image.Resampling.BILINEAR, box=box)
    labels = PIL.Image.fromarray(classes).resize(shown, PIL.Image.Resampling.NEAREST, box=box)
    if config.photometric:
        part = _coloured(part, rng)
    pixels = np.zeros((size, size, 3), np.uint8)
    target = np.full((size, size), IGNORED, np.uint8)
    pixels[: shown[1], : shown[0]], target[: shown[1], : shown[0]] = np.asarray(part), np.asarray(labels)
    if rng.random() < config.flip:
        pixels, target = pixels[:, ::-1], target[:, ::-1]
    return np.ascontiguousarray(pixels), np.ascontiguousarray(target)


def _coloured(image: PIL.Image.Image, rng: np.random.Generator) -> PIL.Image.Image:
    chosen, amounts = rng.random(4) < 0.5, rng.random(4)
    change = (transforms.adjust_brightness, transforms.adjust_contrast, transforms.adjust_saturation)
    for used, amount, adjust in zip(chosen, amounts, change, strict=False):
        if used:
            image = adjust(image, 0.5 + float(amount))
    return transforms.adjust_hue(image, 0.1 * float(amounts[3]) - 0.05) if chosen[3] else image


def crop_batches(
    images: ImageSet, config: CropConfig, size: int, batches: GlobalBatches, context: RunContext
) -> Iterator[tuple[Tensor, Tensor, list[str]]]:  # fmt: skip
    """This rank's part of each global batch: uint8 [b, S, S, 3], classes uint8 [b, S, S], names of broken images."""
    return batches_of(TrainingCrops(images, config, size, context.seed), _collate, batches, context)


def _collate(crops: Sequence[Crop]) -> tuple[Tensor, Tensor, list[str]]:
    pixels, classes = (torch.from_numpy(np.stack([crop[part] for crop in crops])) for part in (0, 1))
    return pixels, classes, [name for crop in crops for name in crop[2]]
