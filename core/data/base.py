"""The one interface behind every data set: images, with labels or without, addressed by position."""

from __future__ import annotations

from typing import Protocol

import PIL.Image


class ImageSet(Protocol):
    """Images addressed by position, so that order, sharding and resuming are plain arithmetic."""

    name: str
    """What the user asked for, e.g. `scenes:train` or `folder:/data/imagenet/train`."""
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
        """What to call image `index` in a message: its path, or `shard.tar::member`."""
        ...

    def digest(self) -> str:
        """sha256 (hex) of what identifies the set: equal digests mean equal images in equal order."""
        ...
