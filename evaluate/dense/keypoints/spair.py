"""SPair-71k's test pairs: images padded to squares, keypoints, boxes, categories and changes of viewpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from core.data.account import Account
from core.data.decode import decode_rgb, opened_image
from core.data.digests import digest_below
from core.errors import UserError
from evaluate.common.labelled import SAMPLE_SEED


@dataclass(frozen=True)
class SpairPair:
    """One pair of images of a category."""

    source: int
    """Position of the source image in `SpairImages` …"""
    target: int
    """… and of the target image."""
    source_points: NDArray[np.float64]
    """Keypoints (x, y) in pixels of the source image, [K, 2] …"""
    target_points: NDArray[np.float64]
    """… and the same ones in the target image."""
    box: tuple[float, float, float, float]
    """Box of the target object in pixels."""
    category: str
    viewpoint: int
    """Change of viewpoint: 0, 1 or 2."""


class SpairImages:
    """Images of SPair-71k's test pairs, each padded with white at the right or the bottom to a square."""

    classes: tuple[str, ...] = ()

    def __init__(self, root: Path, most: int) -> None:
        """Reads PairAnnotation/test/*.json; of each category and viewpoint at most `most` pairs.

        Raises `UserError` for missing or malformed files.
        """
        folder = root / "PairAnnotation/test"
        self._files = sorted(folder.glob("*.json")) if folder.is_dir() else []
        if not self._files:
            raise UserError(f"{root} has no PairAnnotation/test/*.json; pass the folder SPair-71k")
        self._root, self.name = root, f"spair71k:{root} test"
        self._images: dict[Path, int] = {}
        groups: dict[tuple[str, int], list[tuple[Path, dict[str, Any]]]] = {}
        for file in self._files:
            content = _read(file)
            groups.setdefault((content["category"], content["viewpoint_variation"]), []).append((file, content))
        self.pairs: list[SpairPair] = []
        for (_, viewpoint), members in sorted(groups.items()):
            rng = np.random.default_rng((SAMPLE_SEED, viewpoint))
            for number in np.sort(rng.permutation(len(members))[:most]):
                self.pairs.append(self._pair(*members[int(number)]))
        self._order = tuple(self._images)

    def _pair(self, file: Path, content: dict[str, Any]) -> SpairPair:
        category = content["category"]
        places = []
        for key in ("src_imname", "trg_imname"):
            image = self._root / "JPEGImages" / category / content[key]
            if not image.is_file():
                raise UserError(f"no image {image}, which {file.name} names; complete the data set")
            places.append(self._images.setdefault(image, len(self._images)))
        points = [np.array(content[key], np.float64).reshape(-1, 2) for key in ("src_kps", "trg_kps")]
        left, top, right, bottom = (float(side) for side in content["trg_bndbox"])
        box, viewpoint = (left, top, right, bottom), int(content["viewpoint_variation"])
        return SpairPair(places[0], places[1], points[0], points[1], box, category, viewpoint)

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> PIL.Image.Image:
        file = self._order[index]
        image = decode_rgb(file, str(file))
        side = max(image.size)
        square = PIL.Image.new("RGB", (side, side), "white")
        square.paste(image)
        return square

    def side(self, index: int) -> int:
        """Side of the square in pixels; reads the header alone."""
        with opened_image(self._order[index], str(self._order[index])) as image:
            return max(image.size)

    def shown(
        self, pair: SpairPair, size: float, tolerance: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Keypoints of both images and the radius in which a match is right, in pixels of squares of `size`."""
        first, second = (size / self.side(position) for position in (pair.source, pair.target))
        left, top, right, bottom = pair.box
        radius = tolerance * max(right - left, bottom - top) * second
        return pair.source_points * first, pair.target_points * second, radius

    def label(self, index: int) -> int:
        return -1

    def describe(self, index: int) -> str:
        return str(self._order[index])

    def digest(self) -> str:
        files = [*self._files, *self._images]
        return digest_below(self._root, files)

    def account(self) -> Account:
        return Account(
            {"pair beyond the sample": len(self._files) - len(self.pairs)} if len(self.pairs) < len(self._files) else {}
        )

    def conversions(self, index: int) -> tuple[str, ...]:
        return ()


def _read(file: Path) -> dict[str, Any]:
    """Content of one annotation. Raises `UserError` unless it has the names, points and boxes of SPair-71k."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        names = [content[key] for key in ("category", "src_imname", "trg_imname")]
        if not all(isinstance(name, str) and name and "/" not in name and name not in (".", "..") for name in names):
            raise ValueError("names must be plain file names")
        if content["viewpoint_variation"] not in (0, 1, 2):
            raise ValueError("viewpoint_variation must be 0, 1 or 2")
        points = [np.array(content[key], np.float64) for key in ("src_kps", "trg_kps")]
        if points[0].shape != points[1].shape or points[0].ndim != 2 or points[0].shape[1] != 2 or not len(points[0]):
            raise ValueError("src_kps and trg_kps must be equally many (x, y)")
        box = np.array(content["trg_bndbox"], np.float64)
        if box.shape != (4,) or not all(np.isfinite(each).all() for each in (*points, box)):
            raise ValueError("trg_bndbox must be four numbers")
        return dict(content)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is not an annotation of SPair-71k ({error}); restore it") from None
