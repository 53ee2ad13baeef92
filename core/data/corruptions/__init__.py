"""Fourteen corruptions of images at five severities, own implementations: not ImageNet-C, whose images are on disk."""

from __future__ import annotations

import zlib

import numpy as np
import PIL.Image

from core.data.base import ImageSet
from core.data.corruptions.functions import FUNCTIONS
from core.data.corruptions.tables import CORRUPTIONS, parameters
from core.data.derived import Derived
from core.errors import UserError

__all__ = ["CORRUPTIONS", "Corrupted", "corrupt", "parse_corruption"]
VERSION = 1
"""Version of the functions, raised with every change of a pixel."""


def parse_corruption(text: str) -> tuple[str, int]:
    """Name and severity of `NAME:SEVERITY`, e.g. `fog:3`. Raises `UserError`."""
    name, _, severity = text.partition(":")
    if name not in CORRUPTIONS:
        raise UserError(f"corruption {name!r} must be one of {', '.join(CORRUPTIONS)}")
    if severity not in ("1", "2", "3", "4", "5"):
        raise UserError(f"corruption {text!r} must end in a severity of 1 … 5, e.g. {name}:3")
    return name, int(severity)


def corrupt(image: PIL.Image.Image, name: str, severity: int, seed: int, index: int) -> PIL.Image.Image:
    """Corrupted RGB image of the same size; random numbers depend on seed, index, corruption and severity alone."""
    rng = np.random.default_rng((seed, index, zlib.crc32(name.encode()), severity))
    pixels = np.asarray(image.convert("RGB"), np.float64) / 255
    changed = FUNCTIONS[name](pixels, parameters(name, severity, min(image.size)), rng)
    return PIL.Image.fromarray(np.rint(255 * np.clip(changed, 0, 1)).astype(np.uint8))


class Corrupted(Derived):
    """Images of `whole`, each corrupted."""

    def __init__(self, whole: ImageSet, name: str, severity: int, seed: int = 0) -> None:
        super().__init__(whole, f"{whole.name} ({name}:{severity})")
        self._corruption, self._severity, self._seed = name, severity, seed

    def image(self, index: int) -> PIL.Image.Image:
        return corrupt(self.whole.image(index), self._corruption, self._severity, self._seed, index)

    def identity(self) -> str:
        return f"corruption {VERSION} {self._corruption} {self._severity} {self._seed}"
