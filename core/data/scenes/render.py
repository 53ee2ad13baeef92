"""Rendered scenes: one image with exact boxes, masks, semantic map and depth from (config, split, index).

A scene is a pure function of its three arguments: the same pixels in any order, process or machine. Objects of eight
classes lie over a photo background and hide one another. A class is a shape (`shapes.py`) together with the
photograph that fills it (`photographs.py`); place, size, turn, zoom, light and colour are random.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from core.data.scenes import shapes
from core.data.scenes.photographs import SPLITS, tiles

VERSION = 1
"""Version of the renderer, raised with every change of any pixel or annotation."""

CLASSES: dict[str, tuple[shapes.Outline, str]] = {
    "disc": (shapes.disc, "brick"),
    "triangle": (shapes.triangle, "grass"),
    "square": (shapes.square, "gravel"),
    "star": (shapes.star, "hubble"),
    "ring": (shapes.ring, "retina"),
    "cross": (shapes.cross, "chelsea"),
    "crescent": (shapes.crescent, "coffee"),
    "hexagon": (shapes.hexagon, "text"),
}
"""Class name -> its outline and the photograph that fills it, in label order."""
BACKGROUNDS = ("astronaut", "camera", "cell", "clock", "rocket")

OBJECT_RADIUS = 0.25
"""Radius of every object in metres: what looks small is far away."""
FAR = 10.0
"""Distance of the background in metres: farther than the smallest object can be."""
LEAST_PIXELS = 16
"""Visible area that every object has at least, in pixels."""
LEAST_SHARE = 0.25
"""Visible area that every object has at least, as a share of its own area."""
TRIES = 20
"""Places tried for an object before the scene does without it."""


@dataclass(frozen=True)
class ScenesConfig:
    """Appearance and number of the scenes."""

    size: int = 96
    """Height and width of a scene in pixels, 32 … 512."""
    objects: tuple[int, int] = (1, 1)
    """Least and most objects in a scene, 1 … 12. A scene has fewer only if no place is left where one would be seen."""
    radius: tuple[float, float] = (0.3, 0.46)
    """Smallest and largest radius of an object as a share of `size`, at least 0.03 and 6 pixels, at most 0.5.
    Scenes of several objects want smaller ones, such as (0.1, 0.28) for two to six."""
    pretrain: int = 4000
    """Number of scenes in split `pretrain`."""
    train: int = 2000
    """Number of scenes in split `train`."""
    test: int = 1000
    """Number of scenes in split `test`."""
    seed: int = 0
    """Another seed gives other scenes, from the same regions of the photographs."""

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 512:
            raise ValueError(f"size is {self.size}, but must be 32 … 512 pixels")
        if not 1 <= self.objects[0] <= self.objects[1] <= 12:
            raise ValueError(f"objects is {self.objects}, but must be (least, most) with 1 ≤ least ≤ most ≤ 12")
        least = max(0.03, 6 / self.size)
        if not least <= self.radius[0] <= self.radius[1] <= 0.5:
            raise ValueError(
                f"radius is {self.radius}, but must be (least, most) with {least:.3g} ≤ least ≤ most ≤ 0.5 at this size"
            )
        for split in SPLITS:
            if getattr(self, split) < 1:
                raise ValueError(f"{split} is {getattr(self, split)}, but must be at least 1 scene")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, but must be 0 or more")


@dataclass(frozen=True)
class Annotations:
    """Everything that is true of an image. N objects, the nearest first."""

    boxes: NDArray[np.float32]
    """Left, top, right, bottom of the visible part of each object in pixels, tight and half-open, [N, 4]."""
    labels: NDArray[np.int64]
    """Class of each object, 0 … 7, [N]."""
    masks: NDArray[np.bool_]
    """Visible part of each object: the pixels whose centre is within its outline and no nearer one's, [N, H, W]."""
    semantic: NDArray[np.uint8]
    """0 background, class + 1 where an object is seen, [H, W]."""
    depth: NDArray[np.float32]
    """Distance in metres along the optical axis, for a focal length of `size` pixels and objects of 0.25 m radius that
    face the camera; 10 m where the background is seen, [H, W]."""


@dataclass(frozen=True)
class Scene(Annotations):
    """One image and everything that is true of it."""

    image: NDArray[np.uint8]
    """RGB, [H, W, 3]."""


@dataclass(frozen=True)
class Placed:
    """An object in its place: what the painter and the annotations need."""

    label: int
    """Class, 0 … 7."""
    radius: float
    """Radius of the circle around it in pixels."""
    corner: tuple[int, int]
    """Left and top of the square that `distance` covers, in pixels; may lie outside the image."""
    distance: NDArray[np.float64]
    """Signed distance to the outline in pixels, negative inside, [side, side]."""
    visible: NDArray[np.bool_]
    """Pixels of the image in which it is seen, [H, W]."""


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _below(rng: np.random.Generator, count: int) -> int:
    return int(count * rng.random())


def _stream(config: ScenesConfig, split: str, index: int, purpose: int) -> np.random.Generator:
    # Only .random() is drawn from it: the one method whose values follow from the bit generator's guaranteed stream.
    return np.random.default_rng((config.seed, SPLITS.index(split), index, purpose))


def arrange(config: ScenesConfig, split: str, index: int) -> list[Placed]:
    """The objects of a scene, nearest first, without painting them.

    They are placed front to back: none can hide one that is placed already, and each looks for a place where at least
    16 pixels and a quarter of its own area are seen. One that finds none is left out of the scene altogether, so that
    all that is seen is annotated.
    """
    rng = _stream(config, split, index, 0)
    size = config.size
    count = config.objects[0] + _below(rng, config.objects[1] - config.objects[0] + 1)
    labels = [_below(rng, len(CLASSES)) for _ in range(count)]
    radii = sorted((_between(rng, *config.radius) * size for _ in range(count)), reverse=True)
    taken = np.zeros((size, size), dtype=bool)
    placed = []
    for label, radius in zip(labels, radii, strict=True):
        form, angle = rng.random(), _between(rng, 0, 2 * math.pi)
        outline = list(CLASSES.values())[label][0]
        for _ in range(TRIES):
            x, y = (_between(rng, 0.6 * radius, size - 0.6 * radius) for _ in range(2))
            corner, distance = _field(outline, form, angle, radius, x, y)
            inside = distance <= 0
            visible = np.zeros_like(taken)
            image_part, field_part = _overlap(corner, len(distance), size)
            visible[image_part] = inside[field_part]
            visible &= ~taken
            if visible.sum() >= max(LEAST_PIXELS, LEAST_SHARE * inside.sum()):
                taken |= visible
                placed.append(Placed(label, radius, corner, distance, visible))
                break
    assert placed, "the nearest object has the whole image to itself"
    return placed


def _field(
    outline: shapes.Outline, form: float, angle: float, radius: float, x: float, y: float
) -> tuple[tuple[int, int], NDArray[np.float64]]:
    """Left, top and values of the signed distance in pixels, over a square that holds the shape and its shadow."""
    half = math.ceil(1.15 * radius) + 1
    left, top = math.floor(x) - half, math.floor(y) - half
    steps = np.arange(2 * half + 1) + 0.5
    dx, dy = (left + steps - x) / radius, (top + steps[:, None] - y) / radius
    cos, sin = math.cos(angle), math.sin(angle)
    return (left, top), radius * outline(dx * cos + dy * sin, dy * cos - dx * sin, form)


def _overlap(corner: tuple[int, int], side: int, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Overlap of image and square of `side` pixels at `corner` (left, top): in image and in square coordinates."""
    (left, top) = corner
    x0, x1, y0, y1 = max(left, 0), min(left + side, size), max(top, 0), min(top + side, size)
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def annotate(config: ScenesConfig, split: str, index: int) -> Annotations:
    """Everything that is true of scene `index` of `split`, without painting it."""
    return _annotations(config, arrange(config, split, index))


def render(config: ScenesConfig, split: str, index: int) -> Scene:
    """Scene `index` of `split`.

    Raises:
        UserError: if scikit-image or one of its photographs is missing.
    """
    placed = arrange(config, split, index)
    image = _paint(config, split, placed, _stream(config, split, index, 1))
    return Scene(**vars(_annotations(config, placed)), image=image)


def _annotations(config: ScenesConfig, placed: list[Placed]) -> Annotations:
    size = config.size
    semantic = np.zeros((size, size), dtype=np.uint8)
    depth = np.full((size, size), FAR, dtype=np.float32)
    boxes = np.zeros((len(placed), 4), dtype=np.float32)
    for box, thing in zip(boxes, placed, strict=True):
        semantic[thing.visible] = thing.label + 1
        depth[thing.visible] = OBJECT_RADIUS * size / thing.radius
        rows, columns = np.flatnonzero(thing.visible.any(1)), np.flatnonzero(thing.visible.any(0))
        box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return Annotations(
        boxes=boxes,
        labels=np.array([thing.label for thing in placed], dtype=np.int64),
        masks=np.stack([thing.visible for thing in placed]),
        semantic=semantic,
        depth=depth,
    )


def _paint(config: ScenesConfig, split: str, placed: list[Placed], rng: np.random.Generator) -> NDArray[np.uint8]:
    canvas = _background(config.size, split, rng)
    light = _between(rng, 0, 2 * math.pi)
    for thing in reversed(placed):
        side = len(thing.distance)
        image_part, field_part = _overlap(thing.corner, side, config.size)
        distance = thing.distance[field_part].astype(np.float32)[..., None]
        steps = ((np.arange(side) + 0.5 - side / 2) / thing.radius).astype(np.float32)
        shade = (1 + 0.25 * (math.cos(light) * steps + math.sin(light) * steps[:, None]))[field_part][..., None]
        texture = _texture(config.size, thing.label, side, split, rng)[field_part] * shade
        under = canvas[image_part]
        under *= 1 - 0.45 * np.clip(1 - distance / (0.13 * thing.radius), 0, 1)
        under += np.clip(0.5 - distance, 0, 1) * (texture - under)
    return np.rint(np.clip(canvas, 0, 255)).astype(np.uint8)


def _texture(size: int, label: int, side: int, split: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """A turned piece of the class's photograph, [side, side, 3]; only the disc within the square is filled."""
    pieces = tiles(list(CLASSES.values())[label][1], split)
    tile = pieces[_below(rng, len(pieces))]
    # Zoom goes by the size of the scene, so that a scene looks the same at every size.
    extent = min(side * _between(rng, 0.9, 1.8) * 96 / size, *tile.size)
    patch = _piece(tile, extent, side, rng).rotate(_between(rng, 0, 360), PIL.Image.Resampling.BILINEAR)
    return np.asarray(patch, dtype=np.float32) * _tint(rng, 0.2)


def _background(size: int, split: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Two pieces of photographs that meet along a line, often outside the image, [size, size, 3]."""
    first, second = (_backdrop(size, split, rng) for _ in range(2))
    angle, offset = _between(rng, 0, 2 * math.pi), _between(rng, -0.1, 0.8)
    steps = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    across = math.cos(angle) * steps + math.sin(angle) * steps[:, None] - offset
    return first + np.clip(0.5 + across * 20, 0, 1)[..., None] * (second - first)


def _backdrop(size: int, split: str, rng: np.random.Generator) -> NDArray[np.float32]:
    pieces = tiles(BACKGROUNDS[_below(rng, len(BACKGROUNDS))], split)
    tile = pieces[_below(rng, len(pieces))]
    extent = _between(rng, 0.4, 1) * min(tile.size)
    piece = _piece(tile, extent, size, rng)
    if rng.random() < 0.5:
        piece = piece.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(piece, dtype=np.float32)
    mean = pixels.mean((0, 1), dtype=np.float64).astype(np.float32)
    # Pale and little tinted: a loud background would tell images apart without a look at the objects,
    # and self-supervision would learn nothing of the classes.
    return (mean + 0.6 * (pixels - mean)) * _tint(rng, 0.2)


def _piece(tile: PIL.Image.Image, extent: float, side: int, rng: np.random.Generator) -> PIL.Image.Image:
    """A square of `extent` pixels from anywhere in `tile`, resampled to `side` pixels."""
    x, y = (_between(rng, 0, length - extent) for length in tile.size)
    # One axis at a time: which one Pillow takes first, and with it the rounding, depends on its release.
    narrow = tile.resize((side, tile.height), PIL.Image.Resampling.BICUBIC, box=(x, 0, x + extent, tile.height))
    return narrow.resize((side, side), PIL.Image.Resampling.BICUBIC, box=(0, y, side, y + extent))


def _tint(rng: np.random.Generator, spread: float) -> NDArray[np.float32]:
    """Gains of red, green and blue: one for all three and one for each, every one within 1 ± `spread`."""
    common = _between(rng, 1 - spread, 1 + spread)
    return np.array([common * _between(rng, 1 - spread, 1 + spread) for _ in range(3)], dtype=np.float32)
