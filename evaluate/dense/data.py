"""Images with a class for every pixel: built-in scenes, VOC12aug, ADE20K and Cityscapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from core.data.account import Account
from core.data.base import ImageSet
from core.data.decode import decode_rgb
from core.data.digests import digest_below
from core.data.scenes.image_set import Scenes
from core.data.scenes.render import CLASSES, ScenesConfig
from core.data.subset import Subset
from core.errors import UserError
from evaluate.common.labelled import limited
from evaluate.segmentation.data.class_names import CLASS_LIST, class_list
from evaluate.segmentation.data.labels import IGNORED, check_pair, read_label
from evaluate.segmentation.data.layouts import Samples, find_root, list_split
from evaluate.segmentation.protocol import CLASSES as CLASS_COUNTS
from evaluate.segmentation.protocol import SegmentDataConfig

SEMANTIC = ("scenes", "voc12aug", "ade20k", "cityscapes")
"""Sources with a class for every pixel."""
_VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip

Split = Literal["train", "val"]


@dataclass(frozen=True)
class DenseDataConfig:
    source: str = "scenes"
    """`scenes`, or a data set and its folder, such as `voc12aug:/data/VOCdevkit`; taken literally."""
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """Appearance of the built-in scenes; no effect on other sources."""

    def __post_init__(self) -> None:
        kind, colon, place = self.source.partition(":")
        if "\0" in self.source:
            raise ValueError(f"source {self.source!r} holds a NUL character, which paths must not")
        if kind == "scenes" and colon:
            raise ValueError("source scenes takes no place; set scenes.* instead")
        if kind != "scenes" and not place:
            raise ValueError(f"source {self.source!r} needs a place, e.g. {kind or 'voc12aug'}:/data")

    @property
    def kind(self) -> str:
        """Part of the source before the colon."""
        return self.source.partition(":")[0]

    @property
    def place(self) -> str:
        """Part of the source behind the colon; empty for scenes."""
        return self.source.partition(":")[2]


def check_source(config: DenseDataConfig, known: Sequence[str]) -> None:
    """Raises `UserError` unless the source is of one of the `known` kinds."""
    if config.kind not in known:
        named = ", ".join(kind if kind == "scenes" else f"{kind}:ROOT" for kind in known)
        raise UserError(f"data.source {config.source!r} must be one of: {named}")


class SemanticScenes(Scenes):
    """Built-in scenes with class maps: 0 background, 1 … 8 the shapes."""

    PLANES: ClassVar[tuple[str, ...]] = ("image", "semantic")
    names = ("background", *CLASSES)

    def semantic(self, index: int) -> NDArray[np.uint8]:
        """Class of each pixel, [H, W]."""
        return self.plane("semantic", index)


class SemanticFiles:
    """Pairs of image and label files, an `ImageSet` with class maps."""

    def __init__(
        self, samples: Samples, config: SegmentDataConfig, root: Path, name: str, names: tuple[str, ...]
    ) -> None:
        self._samples, self._config, self._root = samples, config, root
        self.name, self.names = name, names
        self.classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self._samples.pairs)

    def image(self, index: int) -> PIL.Image.Image:
        image, label = self._samples.pairs[index]
        check_pair(image, label, self._config)
        return decode_rgb(image, str(image))

    def semantic(self, index: int) -> NDArray[np.uint8]:
        """Class of each pixel, 255 for ignored, [H, W]. Raises `BrokenImage` and `UserError` (`read_label`)."""
        return read_label(self._samples.pairs[index][1], self._config)

    def label(self, index: int) -> int:
        return -1

    def describe(self, index: int) -> str:
        return str(self._samples.pairs[index][0])

    def digest(self) -> str:
        return digest_below(self._root, (file for pair in self._samples.pairs for file in pair))

    def account(self) -> Account:
        return self._samples.account

    def conversions(self, index: int) -> tuple[str, ...]:
        return ()


def open_semantic(config: DenseDataConfig, split: Split, limit: int | None = None) -> ImageSet:
    """Images of one split with class maps (`semantic_of`, `names_of`); a fixed sample of `limit`, or all.

    Raises `UserError` for data that doesn't exist or isn't in its layout.
    """
    check_source(config, SEMANTIC)
    images: ImageSet = _scenes(config, split) if config.kind == "scenes" else _files(config, split)
    return limited(images, limit)


def origin(images: Any, index: int) -> tuple[Any, int]:
    """Annotated set and position that image `index` of a sample comes from."""
    while isinstance(images, Subset):
        images, index = images.whole, int(images.positions[index])
    return images, index


def semantic_of(images: ImageSet, index: int) -> NDArray[np.uint8]:
    """Class of each pixel of image `index`, 255 for ignored, [H, W]."""
    whole, position = origin(images, index)
    return whole.semantic(position)


def names_of(images: ImageSet) -> tuple[str, ...]:
    """Names of the pixel classes."""
    return origin(images, 0)[0].names if len(images) else ()


def shrunk(classes: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Nearest resampling of a class map to [height, width]; the same map if it has that size."""
    if classes.shape == (height, width):
        return classes
    return np.asarray(PIL.Image.fromarray(classes).resize((width, height), PIL.Image.Resampling.NEAREST))


def read_semantics(images: ImageSet, positions: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """Class maps of the images at `positions`, nearest at size × size: [n, size, size]."""
    found = np.empty((len(positions), size, size), np.uint8)
    for number, position in enumerate(positions):
        found[number] = shrunk(semantic_of(images, int(position)), size, size)
    return found


def _scenes(config: DenseDataConfig, split: Split) -> SemanticScenes:
    return SemanticScenes("test" if split == "val" else "train", config.scenes)


def _files(config: DenseDataConfig, split: Split) -> SemanticFiles:
    layout: Any = config.kind
    settings = SegmentDataConfig(layout=layout, root=config.place, classes=CLASS_COUNTS.get(layout, 150))
    root = find_root(settings)
    names = {"voc12aug": _VOC, "cityscapes": _CITYSCAPES}.get(layout) or _ade20k_names(root)
    if len(names) != settings.classes:
        settings = dataclasses.replace(settings, classes=len(names))
    return SemanticFiles(list_split(root, layout, split), settings, root, f"{layout}:{root} {split}", names)


def _ade20k_names(root: Path) -> tuple[str, ...]:
    """Names in the data's own list, objectInfo150.txt; numbers where it is missing."""
    names = class_list(root)
    if names is None:
        return tuple(f"class {number}" for number in range(150))
    if not 2 <= len(names) <= 254:
        raise UserError(
            f"{root / CLASS_LIST} lists {len(names)} classes, but 2 … 254 are needed; restore the data set's own file"
        )
    return tuple(names)


__all__ = [
    "IGNORED", "SEMANTIC", "DenseDataConfig", "SemanticFiles", "SemanticScenes", "Split", "check_source", "names_of",
    "open_semantic", "origin", "read_semantics", "semantic_of", "shrunk",
]  # fmt: skip
