"""NAVI's in-the-wild collections: views of objects with pose and depth, each with a partner of a near viewpoint."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from core.data.account import Account
from core.data.decode import opened_image
from core.data.digests import digest_below
from core.data.to_rgb import to_rgb
from core.errors import BrokenImage, UserError
from evaluate.common.labelled import SAMPLE_SEED
from evaluate.dense.keypoints.protocol import NaviConfig

COLLECTION = "wild_set"
_FAR = 10.0  # depth and camera's distance differ by less than this factor, unless one has another unit
_MOST_BYTES = 2**26

Points = NDArray[np.float64]


@dataclass(frozen=True)
class NaviView:
    """One image of an object and its camera."""

    name: str
    """OBJECT/FILE."""
    image: Path
    depth: Path
    height: int
    """Of the picture as it is looked at, in pixels, …"""
    width: int
    """… and its width."""
    focal: float
    """Focal length in these pixels."""
    rotation: Points
    """From the object's axes to the camera's (right, down, forward), [3, 3] …"""
    translation: Points
    """… and the object's origin seen from the camera, in metres, [3]."""


@dataclass(frozen=True)
class NaviPair:
    """Two views of one object."""

    source: int
    """Position of the source view in `NaviImages` …"""
    target: int
    """… and of the target view."""
    category: str
    """The object's name."""
    angle: float
    """Between the two cameras' rotations, in degrees."""
    rotation: Points
    """From the source camera's axes to the target's, [3, 3] …"""
    translation: Points
    """… and the translation that follows it, in metres, [3]."""


class NaviImages:
    """Views that are paired, each cropped to the square around its object."""

    classes: tuple[str, ...] = ()

    def __init__(self, root: Path, config: NaviConfig) -> None:
        """Reads OBJECT/wild_set/annotations.json. Every `every`-th view, in the order of names, is a source.

        Raises `UserError` for missing or malformed files.
        """
        files = sorted(root.glob(f"*/{COLLECTION}/annotations.json")) if root.is_dir() else []
        if not files:
            raise UserError(f"{root} has no OBJECT/{COLLECTION}/annotations.json; pass the folder navi_v1")
        self._root, self._files, self.name = root, files, f"navi:{root} {COLLECTION}"
        self._views: dict[str, tuple[int, NaviView]] = {}
        self.pairs: list[NaviPair] = []
        alone = number = 0
        for file in files:
            views = read_views(file)
            for view in views:
                number += 1
                if (number - 1) % config.every:
                    continue
                partner = _partner(view, views, config.max_angle, number)
                if partner is None:
                    alone += 1
                else:
                    self.pairs.append(self._pair(view, partner, file.parent.parent.name))
        if not self.pairs:
            raise UserError(f"{root} has no two views of an object within {config.max_angle:g}°; raise navi.max_angle")
        self._order = [view for _, view in self._views.values()]
        self._account = Account({"view without a partner": alone} if alone else {})

    def _pair(self, source: NaviView, target: NaviView, category: str) -> NaviPair:
        first, second = (self._views.setdefault(view.name, (len(self._views), view))[0] for view in (source, target))
        rotation = target.rotation @ source.rotation.T
        translation = target.translation - rotation @ source.translation
        return NaviPair(first, second, category, angle_of(rotation), rotation, translation)

    def __len__(self) -> int:
        return len(self._order)

    def image(self, index: int) -> PIL.Image.Image:
        """The square around the object. Raises `BrokenImage`, and `UserError` for sizes that don't fit together."""
        view = self._order[index]
        left, top, side = self.square(index)
        with opened_image(view.image, str(view.image)) as picture:
            turned = to_rgb(PIL.ImageOps.exif_transpose(picture))
        _check_shape(turned.size, view, view.image)
        scale = turned.width / view.width
        edges = (left, top, left + side, top + side)
        first, upper, last, lower = (round(edge * scale) for edge in edges)
        return turned.crop((first, upper, last, lower))

    def square(self, index: int) -> tuple[float, float, float]:
        """Left, top and side of the square around the object, in pixels of the picture.

        Of the picture's centred square, which is all that counts; as large as the object's longer side, and moved into
        that square where it would leave it.
        """
        view = self._order[index]
        depth = self._depth(view)
        scale = view.width / depth.shape[1]
        whole = min(view.height, view.width)
        first = ((view.height - whole) / 2, (view.width - whole) / 2)
        rows, columns = np.nonzero(depth)
        ends = []
        for places, start in ((rows, first[0]), (columns, first[1])):
            inside = places[((places + 0.5) * scale > start) & ((places + 0.5) * scale < start + whole)]
            if not len(inside):
                raise BrokenImage(str(view.depth), "shows no object in the centre of the picture")
            ends.append((max(start, inside.min() * scale), min(start + whole, (inside.max() + 1) * scale)))
        side = max(high - low for low, high in ends)
        top, left = (
            min(max((low + high - side) / 2, start), start + whole - side)
            for (low, high), start in zip(ends, first, strict=True)
        )
        return left, top, side

    def points(self, index: int, cells: int) -> tuple[Points, NDArray[np.bool_]]:
        """Points of the object at the centres of cells × cells of its square, in metres from the camera.

        [cells², 3], row by row, and [cells²], True where the object is seen.
        """
        view = self._order[index]
        depth, (left, top, side) = self._depth(view), self.square(index)
        scale = view.width / depth.shape[1]
        offsets = (np.arange(cells) + 0.5) * side / cells
        rows = np.minimum(((top + offsets) / scale).astype(np.int64), depth.shape[0] - 1)
        columns = np.minimum(((left + offsets) / scale).astype(np.int64), depth.shape[1] - 1)
        distance = depth[np.ix_(rows, columns)]
        across = ((columns + 0.5) * scale - view.width / 2) / view.focal
        down = ((rows + 0.5) * scale - view.height / 2) / view.focal
        found = np.stack([distance * across[None], distance * down[:, None], distance], axis=-1)
        return found.reshape(-1, 3), distance.ravel() > 0

    def _depth(self, view: NaviView) -> Points:
        """Depth in metres of each pixel, 0 outside of the object, [H, W]."""
        depth = read_depth(view.depth)
        _check_shape(depth.shape[::-1], view, view.depth)
        known = depth[depth > 0]
        if not len(known):
            raise BrokenImage(str(view.depth), "shows no object")
        middle, distance = float(np.median(known)), float(np.linalg.norm(view.translation))
        if not distance / _FAR < middle < distance * _FAR:
            raise UserError(
                f"{view.depth} shows the object {middle:.3g} m away, but its camera is {distance:.3g} m away; store "
                f"655,350 / millimetres in 16 bits, and translations in millimetres"
            )
        return depth

    def label(self, index: int) -> int:
        return -1

    def describe(self, index: int) -> str:
        return str(self._order[index].image)

    def digest(self) -> str:
        images = [file for view in self._order for file in (view.image, view.depth)]
        return digest_below(self._root, [*self._files, *images])

    def account(self) -> Account:
        return self._account

    def conversions(self, index: int) -> tuple[str, ...]:
        return ()


def read_depth(file: Path) -> Points:
    """Depth in metres of a 16-bit PNG that stores 655,350 / millimetres; 0 where nothing is stored, [H, W].

    Raises `BrokenImage` for a file that can't be decoded, `UserError` for one that isn't 16-bit grey.
    """
    with opened_image(file, str(file)) as picture:
        mode, stored = picture.mode, np.asarray(picture)
    if not mode.startswith("I") or stored.ndim != 2:
        raise UserError(f"{file} is of mode {mode}, but NAVI's depth maps are 16-bit grey PNGs; restore it")
    if stored.min() < 0:
        raise BrokenImage(str(file), "holds negative numbers")
    return np.divide(655.35, stored, out=np.zeros(stored.shape), where=stored > 0)


def rotation_of(quaternion: Points) -> Points:
    """Rotation matrix of a quaternion (w, x, y, z) of any length above 0, [3, 3]."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def angle_of(rotation: Points) -> float:
    """Angle of a rotation in degrees, 0 … 180."""
    return math.degrees(math.acos(min(1.0, max(-1.0, (float(np.trace(rotation)) - 1) / 2))))


def read_views(file: Path) -> list[NaviView]:
    """Views of one annotations.json, in the order of their names.

    Raises `UserError` unless they have names, sizes and cameras as NAVI has them, and images and depth maps exist.
    """
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES} bytes")
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, list):
            raise ValueError("it must be a list of views")
        views = [_view(entry, file.parent) for entry in content]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise UserError(f"{file} is not an annotation of NAVI ({error}); restore it") from None
    if doubled := next((view.name for view in views if [each.name for each in views].count(view.name) > 1), None):
        raise UserError(f"{file} names {doubled} twice; restore it")
    for view in views:
        if missing := next((path for path in (view.image, view.depth) if not path.is_file()), None):
            raise UserError(f"no file {missing}, which {file} needs; complete the data set")
    return sorted(views, key=lambda view: view.name)


def _view(entry: dict[str, Any], folder: Path) -> NaviView:
    name = entry["filename"]
    if not isinstance(name, str) or not name or Path(name).name != name or name in (".", ".."):
        raise ValueError(f"filename {name!r} must be a plain file name")
    height, width = (int(side) for side in entry["image_size"])
    camera = entry["camera"]
    quaternion, translation = (np.array(camera[key], np.float64) for key in ("q", "t"))
    focal = float(camera["focal_length"])
    if quaternion.shape != (4,) or translation.shape != (3,):
        raise ValueError(f"{name}: camera.q must be four numbers and camera.t three")
    numbers = [*quaternion, *translation, focal]
    if not all(math.isfinite(number) for number in numbers) or not np.linalg.norm(quaternion) > 1e-6:
        raise ValueError(f"{name}: camera.q, t and focal_length must be finite, and q not zero")
    if not (focal > 0 and height > 0 and width > 0):
        raise ValueError(f"{name}: focal_length and image_size must be positive")
    return NaviView(
        f"{folder.parent.name}/{name}", folder / "images" / name, folder / "depth" / f"{Path(name).stem}.png",
        height, width, focal, rotation_of(quaternion), translation / 1000,
    )  # fmt: skip


def _partner(view: NaviView, views: list[NaviView], most: float, number: int) -> NaviView | None:
    """A view whose camera is turned by more than 0 and at most `most` degrees, drawn for source `number`."""
    near = [other for other in views if 1e-3 < angle_of(other.rotation @ view.rotation.T) <= most]
    return near[int(np.random.default_rng((SAMPLE_SEED, number)).integers(len(near)))] if near else None


def _check_shape(size: tuple[int, int], view: NaviView, file: Path) -> None:
    """Raises `UserError` if a file of (width, height) pixels has another aspect ratio than its annotation."""
    if abs(size[0] * view.height - size[1] * view.width) > 0.01 * size[0] * view.height:
        raise UserError(
            f"{file} is {size[0]}×{size[1]} pixels, but its annotation says {view.width}×{view.height}; restore it"
        )
