"""A data set in ADE20K's layout with five samples of 8 × 6 pixels, for tests of odd files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from evaluate.segmentation.data.layouts import Samples, list_split
from evaluate.segmentation.protocol import SegmentDataConfig

ADE = SegmentDataConfig("ade20k", classes=3)


def save(file: Path, pixels: np.ndarray, **options: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(file, **options)
    return file


def image(file: Path, **options: Any) -> Path:
    return save(file, np.full((6, 8, 3), 90, np.uint8), **options)


def label(file: Path, fill: int = 1) -> Path:
    return save(file, np.full((6, 8), fill, np.uint8))


def write_samples(root: Path) -> Path:
    """Images a … d in `training`, e in `validation`; every pixel has the label 1."""
    for split, names in (("training", "abcd"), ("validation", "e")):
        for name in names:
            image(root / f"images/{split}/{name}.jpg")
            label(root / f"annotations/{split}/{name}.png")
    return root


def train(root: Path) -> Samples:
    return list_split(root, "ade20k", "train")
