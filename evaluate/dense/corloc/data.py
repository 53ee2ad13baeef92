"""Images with boxes: built-in scenes, and trainval of Pascal VOC 2007 and 2012."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from core.data.account import Account
from core.data.base import ImageSet
from core.data.decode import decode_rgb
from core.data.digests import digest_below
from core.data.scenes.image_set import Scenes
from core.errors import UserError
from core.files.user_path import user_path
from evaluate.common.labelled import limited
from evaluate.dense.data import DenseDataConfig, check_source, origin

BOXED = ("scenes", "voc07", "voc12")
"""Sources with boxes."""
_YEARS = {"voc07": "VOC2007", "voc12": "VOC2012"}
_MAX_FILE = 2**20


class BoxedScenes(Scenes):
    """Built-in scenes with boxes."""

    def boxes(self, index: int) -> NDArray[np.float64]:
        """Left, top, right, bottom of each object in pixels, half-open, [N, 4]."""
        return self.annotations(index).boxes.astype(np.float64)


class BoxedVoc:
    """Trainval images of one year of Pascal VOC, with the boxes of all their objects."""

    def __init__(self, root: Path, year: str) -> None:
        """Finds `root`/YEAR, `root`/VOCdevkit/YEAR or `root` itself. Raises `UserError` for missing files."""
        places = [root / year, root / "VOCdevkit" / year, root]
        found = next((place for place in places if (place / "ImageSets/Main/trainval.txt").is_file()), None)
        if found is None:
            raise UserError(f"{root} has no {year}/ImageSets/Main/trainval.txt; pass the folder VOCdevkit")
        self._root, self.name = found, f"{year}:{found} trainval"
        self.classes: tuple[str, ...] = ()
        try:
            lines = (found / "ImageSets/Main/trainval.txt").read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"can't read {found}/ImageSets/Main/trainval.txt ({error}); restore the list") from None
        self._names = list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))
        for name in self._names:
            if "/" in name or not self._image(name).is_file() or not self._annotation(name).is_file():
                raise UserError(f"{found} lacks the image or the annotation of {name!r}, which is listed; complete it")
        if not self._names:
            raise UserError(f"{found}/ImageSets/Main/trainval.txt lists no image; restore the list")

    def _image(self, name: str) -> Path:
        return self._root / "JPEGImages" / f"{name}.jpg"

    def _annotation(self, name: str) -> Path:
        return self._root / "Annotations" / f"{name}.xml"

    def __len__(self) -> int:
        return len(self._names)

    def image(self, index: int) -> PIL.Image.Image:
        file = self._image(self._names[index])
        return decode_rgb(file, str(file))

    def boxes(self, index: int) -> NDArray[np.float64]:
        """Left, top, right, bottom of each object in pixels, half-open, [N, 4]. Raises `UserError` for bad XML."""
        file = self._annotation(self._names[index])
        try:
            if file.stat().st_size > _MAX_FILE:
                raise ValueError(f"more than {_MAX_FILE} bytes")
            found = [
                [float(thing.findtext(f"bndbox/{side}", "nan")) for side in ("xmin", "ymin", "xmax", "ymax")]
                for thing in ET.fromstring(file.read_bytes()).iter("object")
            ]
            if not all(math.isfinite(value) for box in found for value in box):
                raise ValueError("an object without a box")
        except (OSError, ET.ParseError, ValueError, LookupError, OverflowError, RecursionError) as error:
            raise UserError(f"{file} is not an annotation of Pascal VOC ({error}); restore it") from None
        boxes = np.array(found, np.float64).reshape(-1, 4)
        boxes[:, :2] -= 1  # VOC counts pixels from 1 and includes the last
        return boxes

    def label(self, index: int) -> int:
        return -1

    def describe(self, index: int) -> str:
        return str(self._image(self._names[index]))

    def digest(self) -> str:
        files = [place(name) for name in self._names for place in (self._image, self._annotation)]
        return digest_below(self._root, files)

    def account(self) -> Account:
        return Account()

    def conversions(self, index: int) -> tuple[str, ...]:
        return ()


def open_boxed(config: DenseDataConfig, limit: int | None) -> ImageSet:
    """Images with boxes (`boxes_of`); a fixed sample of `limit`, or all. Raises `UserError`."""
    check_source(config, BOXED)
    if config.kind == "scenes":
        images: ImageSet = BoxedScenes("test", config.scenes)
    else:
        images = BoxedVoc(user_path(config.place), _YEARS[config.kind])
    return limited(images, limit)


def boxes_of(images: ImageSet, index: int) -> NDArray[np.float64]:
    """Boxes of image `index`, half-open pixels, [N, 4]."""
    whole, position = origin(images, index)
    return whole.boxes(position)
