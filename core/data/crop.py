"""Random crops: boxes drawn as by torchvision's RandomResizedCrop, from NumPy's generators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import PIL.Image
import torch
from torch.nn import functional

Interpolation = Literal["bicubic", "bilinear"]
"""Interpolation of a resize, antialiased when it shrinks, as Pillow's and torchvision's of images."""

RESAMPLING = {"bicubic": PIL.Image.Resampling.BICUBIC, "bilinear": PIL.Image.Resampling.BILINEAR}

CROP_TRIES = 10
"""Boxes tried by a crop before it falls back to the centre, as in torchvision's RandomResizedCrop."""

MAX_REDUCTION = 90
"""Largest factor by which `resize_widths` and `resize_heights` shrink on a GPU: torch's kernel keeps the weights of 32
columns, or of a row and its 32 sums, in 48 KiB of shared memory; bicubic weights reach over four times the factor."""


def draw_crop(
    width: int, height: int, area: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A box (left, top, width, height) within an image, drawn as by torchvision's RandomResizedCrop.

    Area uniform, ratio (width / height) log-uniform, position uniform; after `CROP_TRIES` boxes that don't fit, the
    largest central one whose ratio is allowed.
    """
    numbers = rng.random(2 * CROP_TRIES + 2).tolist()
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for attempt in range(CROP_TRIES):
        pixels = width * height * (area[0] + (area[1] - area[0]) * numbers[2 * attempt])
        aspect = math.exp(low + (high - low) * numbers[2 * attempt + 1])
        box_width, box_height = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = int(numbers[-2] * (width - box_width + 1))
            top = int(numbers[-1] * (height - box_height + 1))
            return left, top, box_width, box_height
    box_width, box_height = width, height
    if width / height < ratio[0]:
        box_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        box_width = round(height * ratio[1])
    return (width - box_width) // 2, (height - box_height) // 2, box_width, box_height


def resized_crop(
    image: PIL.Image.Image,
    size: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
    interpolation: Interpolation = "bicubic",
) -> PIL.Image.Image:
    """A random crop of `image` (`draw_crop`), resized to size × size pixels."""
    return resize_box(image, draw_crop(image.width, image.height, area, ratio, rng), size, interpolation)


def resize_box(
    image: PIL.Image.Image, box: tuple[int, int, int, int], size: int, interpolation: Interpolation = "bicubic"
) -> PIL.Image.Image:
    """The part `box` (left, top, width, height) of an image, resized to size × size pixels."""
    left, top, width, height = box
    # Cropped first, not by resize's own box: that lets pixels from outside of the crop in.
    crop = image.crop((left, top, left + width, top + height))
    return crop.resize((size, size), RESAMPLING[interpolation])


def resize_box_of_pixels(pixels: torch.Tensor, box: tuple[int, int, int, int], size: int) -> torch.Tensor:
    """The same of decoded pixels, uint8 [H, W, 3] -> [3, size, size] (strides of [size, size, 3]), but faster.

    Bicubic with antialiasing on integers, as torchvision resizes uint8 tensors. torch's weights have 16 bits where
    Pillow's have 22, so that 1.5 % of the values differ from `resize_box` by one level, 6 in a million by two.
    """
    left, top, width, height = box
    # Without the copy the kernel makes one that is planar, and is slower on it.
    crop = pixels[top : top + height, left : left + width].contiguous().permute(2, 0, 1)[None]
    return functional.interpolate(crop, (size, size), mode="bicubic", antialias=True)[0]


def resize_widths(image: torch.Tensor, box: tuple[int, int, int, int], size: int) -> torch.Tensor:
    """The part `box` of a float image [C, H, W] on any device, resized to the width `size`: [C, height, size].

    With `resize_heights`, `resize_box_of_pixels` for devices whose kernels know no integers: rounded and clamped after
    each of the two passes, as there. The weights are exact here, so a few values differ by one level.
    """
    left, top, width, height = box
    crop = image[None, :, top : top + height, left : left + width]
    return functional.interpolate(crop, (height, size), mode="bicubic", antialias=True)[0]


def resize_heights(strips: Sequence[torch.Tensor]) -> torch.Tensor:
    """Strips [C, height, size] of several images, by `resize_widths`, resized to uint8 [B, C, size, size]."""
    heights, size = [strip.shape[1] for strip in strips], strips[0].shape[2]
    # Of all strips at once, and of all crops: on a GPU, launching kernels is what takes time.
    rounded = torch.cat(list(strips), dim=1).round_().clamp_(0, 255)
    crops = [
        functional.interpolate(strip[None], (size, size), mode="bicubic", antialias=True)
        for strip in rounded.split(heights, dim=1)
    ]
    return torch.cat(crops).round_().clamp_(0, 255).to(torch.uint8)
