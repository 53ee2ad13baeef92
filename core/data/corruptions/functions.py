"""The corruptions: (pixels float64 [H, W, 3] in 0 … 1, parameters, generator) -> pixels, before clipping."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from scipy import ndimage

Pixels = NDArray[np.float64]


def _gaussian_noise(pixels: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    return pixels + rng.normal(0, sigma, pixels.shape)


def _shot_noise(pixels: Pixels, rate: float, rng: np.random.Generator) -> Pixels:
    return rng.poisson(pixels * rate) / rate


def _impulse_noise(pixels: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    hit, white = rng.random(pixels.shape) < share, rng.random(pixels.shape) < 0.5
    return np.where(hit, white.astype(np.float64), pixels)


def _defocus_blur(pixels: Pixels, parameters: tuple[float, float], rng: np.random.Generator) -> Pixels:
    radius, alias = parameters
    reach = max(8, math.ceil(radius))
    steps = np.arange(-reach, reach + 1)
    kernel = (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.float64)
    kernel = ndimage.gaussian_filter(kernel / kernel.sum(), alias, truncate=(1 if radius <= 8 else 2) / alias)
    return _convolved(pixels, kernel / kernel.sum())


def _convolved(pixels: Pixels, kernel: Pixels) -> Pixels:
    return np.stack([ndimage.convolve(pixels[..., channel], kernel, mode="mirror") for channel in range(3)], axis=-1)


def _glass_blur(pixels: Pixels, parameters: tuple[float, int, int], rng: np.random.Generator) -> Pixels:
    sigma, reach, rounds = parameters
    height, width = pixels.shape[:2]
    found = _smoothed(pixels, sigma)
    rows, columns = np.mgrid[:height, :width]
    for _ in range(rounds):
        down, across = (rng.integers(-reach, reach + 1, (height, width)) for _ in range(2))
        found = found[np.clip(rows + down, 0, height - 1), np.clip(columns + across, 0, width - 1)]
    return _smoothed(found, sigma)


def _smoothed(pixels: Pixels, sigma: float) -> Pixels:
    return ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode="nearest")


def _motion_blur(pixels: Pixels, parameters: tuple[int, float], rng: np.random.Generator) -> Pixels:
    return _moved(pixels, *parameters, angle=float(rng.uniform(-45, 45)))


def _moved(pixels: Pixels, radius: int, sigma: float, angle: float) -> Pixels:
    """Mean of copies shifted along one direction, with the weights of half a Gaussian."""
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    direction = math.radians(angle)
    total = np.zeros_like(pixels)
    height, width = pixels.shape[:2]
    for step, weight in enumerate(weights):
        down, across = (round(step * turn) for turn in (math.sin(direction), math.cos(direction)))
        rows, columns = (np.clip(np.arange(n) - by, 0, n - 1) for n, by in ((height, down), (width, across)))
        total += weight * pixels[rows[:, None], columns]
    return total


def _zoom_blur(pixels: Pixels, parameters: tuple[float, float], rng: np.random.Generator) -> Pixels:
    largest, step = parameters
    factors = np.arange(1, largest, step)
    return (pixels + sum(_zoomed(pixels, float(factor)) for factor in factors)) / (1 + len(factors))


def _zoomed(pixels: Pixels, factor: float) -> Pixels:
    """The central part, enlarged to the whole size (bilinear)."""
    axes = [(np.arange(length) + 0.5 - length / 2) / factor + length / 2 - 0.5 for length in pixels.shape[:2]]
    places = np.meshgrid(*axes, indexing="ij")
    planes = [ndimage.map_coordinates(pixels[..., n], places, order=1, mode="nearest") for n in range(pixels.shape[2])]
    return np.stack(planes, axis=-1)


def _snow(pixels: Pixels, parameters: tuple[float, ...], rng: np.random.Generator) -> Pixels:
    mean, deviation, zoom, threshold, radius, sigma, share = parameters
    layer = _zoomed(rng.normal(mean, deviation, pixels.shape[:2])[..., None], zoom)
    layer[layer < threshold] = 0
    layer = _moved(np.clip(layer, 0, 1), int(radius), sigma, float(rng.uniform(-135, -45)))
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    pale = share * pixels + (1 - share) * np.maximum(pixels, grey[..., None] * 1.5 + 0.5)
    return pale + layer + layer[::-1, ::-1]


def _fog(pixels: Pixels, parameters: tuple[float, float], rng: np.random.Generator) -> Pixels:
    strength, decay = parameters
    height, width = pixels.shape[:2]
    top = pixels.max()
    haze = _plasma(max(height, width), decay, rng)[:height, :width, None]
    return (pixels + strength * haze) * top / (top + strength)


def _plasma(side: int, decay: float, rng: np.random.Generator) -> Pixels:
    """Fractal clouds in 0 … 1 by midpoint displacement on a torus, at least side × side."""
    size = 2 ** math.ceil(math.log2(max(side, 2)))
    field = np.zeros((size, size))
    step, wobble = size, 100.0
    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        right, below = np.roll(corners, -1, 1), np.roll(corners, -1, 0)
        centre = (corners + right + below + np.roll(right, -1, 0)) / 4
        field[half::step, half::step] = centre + wobble * rng.uniform(-1, 1, corners.shape)
        centres = field[half::step, half::step]
        for rows, columns, near, side_ in ((0, half, right, 0), (half, 0, below, 1)):
            mean = (corners + near + centres + np.roll(centres, 1, side_)) / 4
            field[rows::step, columns::step] = mean + wobble * rng.uniform(-1, 1, corners.shape)
        step, wobble = half, wobble / decay
    field -= field.min()
    return field / max(field.max(), 1e-12)


def _brightness(pixels: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    """Value of HSV plus `amount`: colours are scaled, black turns grey."""
    value = pixels.max(axis=2, keepdims=True)
    raised = np.clip(value + amount, 0, 1)
    return np.where(value > 0, pixels * raised / np.maximum(value, 1e-12), raised)


def _contrast(pixels: Pixels, factor: float, rng: np.random.Generator) -> Pixels:
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    return (pixels - mean) * factor + mean


def _elastic_transform(pixels: Pixels, parameters: tuple[float, float, float], rng: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    side = min(height, width)
    alpha, sigma, affine = (value * side for value in parameters)
    third = side // 3
    centre = np.array([height // 2, width // 2], np.float64)
    points = centre + third * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = points + rng.uniform(-affine, affine, points.shape)
    # The map from the shown place back to its source: a linear system of three points.
    matrix = np.linalg.lstsq(np.c_[moved, np.ones(3)], points, rcond=None)[0]
    rows, columns = np.mgrid[:height, :width]
    shown = np.stack([rows.ravel(), columns.ravel(), np.ones(rows.size)], axis=1)
    places = (shown @ matrix).T.reshape(2, height, width)
    if alpha:
        for axis in range(2):
            shift = rng.uniform(-1, 1, (height, width))
            places[axis] += alpha * ndimage.gaussian_filter(shift, sigma, mode="reflect", truncate=3)
    planes = [ndimage.map_coordinates(pixels[..., n], places, order=1, mode="reflect") for n in range(3)]
    return np.stack(planes, axis=-1)


def _pixelate(pixels: Pixels, factor: float, rng: np.random.Generator) -> Pixels:
    image = _image(pixels)
    small = image.resize([max(1, int(length * factor)) for length in image.size], PIL.Image.Resampling.BOX)
    return np.asarray(small.resize(image.size, PIL.Image.Resampling.BOX), np.float64) / 255


def _jpeg_compression(pixels: Pixels, quality: int, rng: np.random.Generator) -> Pixels:
    stream = io.BytesIO()
    _image(pixels).save(stream, format="JPEG", quality=quality)
    with PIL.Image.open(stream, formats=["JPEG"]) as image:
        return np.asarray(image.convert("RGB"), np.float64) / 255


def _image(pixels: Pixels) -> PIL.Image.Image:
    return PIL.Image.fromarray(np.rint(255 * pixels).astype(np.uint8))


FUNCTIONS: dict[str, Callable[[Pixels, Any, np.random.Generator], Pixels]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
"""By name."""
