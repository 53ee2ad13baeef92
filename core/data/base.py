"""The one interface behind every data set: images, with labels or without, addressed by position."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import PIL.Image

from core.data.account import Account


class ImageSet(Protocol):
    """Images addressed by position, so that order, sharding and resuming are plain arithmetic."""

    name: str
    """Source as the user named it, e.g. `scenes:train` or `folder:/data/imagenet/train`."""
    classes: tuple[str, ...]
    """Class names in label order; empty where the set has no labels."""

    def __len__(self) -> int:
        """Number of images."""
        ...

    def image(self, index: int) -> PIL.Image.Image:
        """Image `index`, RGB. Raises `BrokenImage` where it can't be decoded."""
        ...

    def label(self, index: int) -> int:
        """Class of image `index`, 0 … len(classes) − 1; −1 where the set has no labels."""
        ...

    def describe(self, index: int) -> str:
        """Name of image `index` in messages: its path, or `shard.tar::member`."""
        ...

    def digest(self) -> str:
        """Identity of the set, 64 hexadecimal digits and perhaps `:content` or `:stat` (core/data/digests.py).

        Equal digests mean equal images in equal order.
        """
        ...

    def account(self) -> Account:
        """Differences between what is stored and what is used, without `conversions`."""
        ...

    def conversions(self, index: int) -> tuple[str, ...]:
        """Reasons why image `index` is not used as it is stored (core/data/to_rgb.py); none for a broken one."""
        ...


def stored_bytes(images: ImageSet, index: int) -> bytes | None:
    """File of image `index`, from which `decode_rgb` makes it; None where there is none, or it must be read in parts.

    Sets without this method hold no files, or images made from them.
    """
    read = getattr(images, "stored_bytes", None)
    return None if read is None else read(index)


def read_ahead(images: ImageSet, positions: np.ndarray) -> None:
    """Says that the images at `positions` will be read next, in this order, to sets that fetch what they read."""
    if (fetch := getattr(images, "read_ahead", None)) is not None:
        fetch(positions)
