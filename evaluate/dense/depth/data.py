"""Images with a depth for every pixel: built-in scenes, NYU (BTS's lists), KITTI (Eigen's split) and SUN RGB-D."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from core.data.account import Account
from core.data.base import ImageSet
from core.data.decode import decode_rgb, opened_image
from core.data.digests import digest_below
from core.data.scenes.image_set import Scenes
from core.errors import BrokenImage, UserError
from core.files.user_path import user_path
from evaluate.common.labelled import limited
from evaluate.dense.data import DenseDataConfig, Split, check_source, origin

DEPTHS = ("scenes", "nyu", "kitti", "sunrgbd")
"""Sources with a depth for every pixel."""


@dataclass(frozen=True)
class _Layout:
    lists: dict[str, tuple[str, ...]]
    """Names that the list of a split may have, the usual one first."""
    images: tuple[str, ...]
    """Folders below the root in which image paths may begin."""
    depths: tuple[str, ...]
    """Folders below the root in which depth paths may begin."""
    per_metre: float
    """Stored units per metre."""
    units: str
    """Their name, for messages."""


_LAYOUTS = {
    "nyu": _Layout(
        {"train": ("nyu_train.txt", "nyudepthv2_train_files_with_gt.txt"),
         "val": ("nyu_test.txt", "nyudepthv2_test_files_with_gt.txt")},
        ("", "nyu"), ("", "nyu"), 1000.0, "millimetres",
    ),
    "kitti": _Layout(
        {"train": ("kitti_eigen_train.txt", "eigen_train_files_with_gt.txt"),
         "val": ("kitti_eigen_test.txt", "eigen_test_files_with_gt.txt")},
        ("input", ""), ("gt_depth", ""), 256.0, "256ths of a metre",
    ),
    "sunrgbd": _Layout(
        {"val": ("SUNRGBD_val_splits.txt", "sunrgbd_test.txt")},
        ("", "SUNRGBD"), ("", "SUNRGBD"), 8000.0, "8,000ths of a metre (millimetres shifted by three bits)",
    ),
}  # fmt: skip


class DepthScenes(Scenes):
    """Built-in scenes with depth maps; `objects` separates objects from the background."""

    PLANES: ClassVar[tuple[str, ...]] = ("image", "semantic", "depth")

    def depth(self, index: int) -> NDArray[np.float32]:
        """Depth of each pixel in metres, [H, W]."""
        return self.plane("depth", index)

    def objects(self, index: int) -> NDArray[np.bool_]:
        """True where an object is seen, [H, W]."""
        return self.plane("semantic", index) > 0


class DepthFiles:
    """Pairs of images and 16-bit depth PNGs by a list of lines `image depth [focal length]`."""

    def __init__(self, root: Path, layout: str, split: Split) -> None:
        """Reads the list. Raises `UserError` for a missing or malformed one, and for files that don't exist."""
        self._layout, self._root = _LAYOUTS[layout], root
        names = self._layout.lists.get(split)
        if names is None:
            raise UserError(f"{layout} has no training images here; train on nyu and set test_source={layout}:ROOT")
        found = next((file for name in names if (file := root / name).is_file()), None)
        if found is None:
            raise UserError(f"{root} has no list {' or '.join(names)}; complete the data set")
        self.list = found
        self._pairs, without = self._read(found)
        self.name = f"{layout}:{root} {found.name}"
        self.classes: tuple[str, ...] = ()
        self._account = Account({"listed without a depth map": without} if without else {})
        if not self._pairs:
            raise UserError(f"{found} lists no image with a depth map; use the data set's own list")

    def _read(self, file: Path) -> tuple[list[tuple[Path, Path]], int]:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"can't read the list {file} ({error}); use the data set's own list") from None
        pairs, without = [], 0
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words:
                continue
            if not 2 <= len(words) <= 3:
                raise UserError(f"line {number} of {file} has {len(words)} columns, not `image depth [focal length]`")
            if words[1] == "None":
                without += 1
                continue
            image = self._find(words[0], self._layout.images, file, number)
            pairs.append((image, self._find(words[1], self._layout.depths, file, number)))
        return pairs, without

    def _find(self, name: str, folders: tuple[str, ...], file: Path, number: int) -> Path:
        relative = name.lstrip("/")
        if ".." in Path(relative).parts:
            raise UserError(f"line {number} of {file} names {name!r}, which leads out of the data set; fix the list")
        places = [self._root / folder / relative for folder in folders]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise UserError(f"no file {places[0]}, which line {number} of {file} names; complete the data set")
        return found

    def __len__(self) -> int:
        return len(self._pairs)

    def image(self, index: int) -> PIL.Image.Image:
        image = self._pairs[index][0]
        return decode_rgb(image, str(image))

    def depth(self, index: int) -> NDArray[np.float32]:
        """Depth of each pixel in metres, 0 where none was measured, [H, W].

        Raises `BrokenImage` for a file that can't be decoded, `UserError` for one that isn't 16-bit grey.
        """
        file = self._pairs[index][1]
        with opened_image(file, str(file)) as picture:
            mode, stored = picture.mode, np.asarray(picture)
        if not mode.startswith("I"):
            raise UserError(
                f"{file} is of mode {mode}, but depth maps are 16-bit grey PNGs in {self._layout.units}; convert it"
            )
        if stored.ndim != 2 or stored.min() < 0:
            raise BrokenImage(str(file), "is not one non-negative number per pixel")
        return (stored / self._layout.per_metre).astype(np.float32)

    def check(self, index: int, range_: tuple[float, float]) -> None:
        """Raises `UserError` if image and depth differ in size, or if no depth of the map lies within the range."""
        image, file = self._pairs[index]
        depth, size = self.depth(index), self.image(index).size
        if size != depth.shape[::-1]:
            raise UserError(
                f"{image} is {size[0]}×{size[1]} and its depth {file.name} {depth.shape[1]}×{depth.shape[0]} pixels; "
                f"make both the same size"
            )
        known = depth[depth > 0]
        if len(known) and not ((known > range_[0]) & (known < range_[1])).any():
            raise UserError(
                f"{file} holds depths of {known.min():g} … {known.max():g} m, all outside of {range_[0]:g} … "
                f"{range_[1]:g}; they must be stored in {self._layout.units}"
            )

    def label(self, index: int) -> int:
        return -1

    def describe(self, index: int) -> str:
        return str(self._pairs[index][0])

    def digest(self) -> str:
        """Of the list and of all files that it names."""
        files = [self.list, *(file for pair in self._pairs for file in pair)]
        return digest_below(self._root, files)

    def account(self) -> Account:
        return self._account

    def conversions(self, index: int) -> tuple[str, ...]:
        return ()


def open_depth(config: DenseDataConfig, split: Split, limit: int | None = None) -> ImageSet:
    """Images of one split with depth maps (`depth_of`); a fixed sample of `limit`, or all. Raises `UserError`."""
    check_source(config, DEPTHS)
    if config.kind == "scenes":
        images: ImageSet = DepthScenes("test" if split == "val" else "train", config.scenes)
    else:
        root = user_path(config.place)
        if not root.is_dir():
            raise UserError(f"no folder {root}; pass --data {config.kind}:ROOT")
        images = DepthFiles(root, config.kind, split)
    return limited(images, limit)


def depth_of(images: ImageSet, index: int) -> NDArray[np.float32]:
    """Depth of each pixel of image `index` in metres, 0 where unknown, [H, W]."""
    whole, position = origin(images, index)
    return whole.depth(position)


def objects_of(images: ImageSet, index: int) -> NDArray[np.bool_] | None:
    """True where an object of a built-in scene is seen, [H, W]; None for other sets."""
    whole, position = origin(images, index)
    return whole.objects(position) if isinstance(whole, DepthScenes) else None
