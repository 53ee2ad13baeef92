"""Large-scale jitter: flip, a wide range of scales, a crop of fixed size; masks may be polygons or run lengths."""

from __future__ import annotations

from typing import Any

import detectron2.data.transforms as T
import numpy as np
from numpy.typing import NDArray


def large_scale_jitter(side: int) -> list[Any]:
    """Flip, scale to fit a square of `side` pixels, times 0.1 … 2, crop what goes beyond (arXiv 2012.07177, sec. 3)."""
    return [T.RandomFlip(), T.ResizeScale(0.1, 2.0, side, side), _Crop(side)]


class _Crop(T.Augmentation):
    """A window of at most `side`×`side` pixels at a random place."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.crop = T.FixedSizeCrop((side, side), pad=False)

    def get_transform(self, image: NDArray[Any]) -> T.Transform:
        return _WholePolygons(self.crop.get_transform(image).transforms[0])


class _WholePolygons(T.Transform):
    """A crop that moves polygons and leaves them whole: what lies beyond the image goes when they become bitmaps.

    Detectron2's own crop cuts them first, for which it needs a geometry library.
    """

    def __init__(self, crop: T.CropTransform) -> None:
        super().__init__()
        self.crop = crop

    def apply_image(self, img: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self.crop.apply_image(img))

    def apply_coords(self, coords: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(self.crop.apply_coords(coords))
