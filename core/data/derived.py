"""Base of image sets that are made from another one: crops, views, tiles, corruptions."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import PIL.Image

from core.data.account import Account
from core.data.base import ImageSet, read_ahead
from core.data.digests import part_digest


class Derived:
    """Images made from those of `whole`: image i from image i // `each`. Subclasses add `image` and `identity`."""

    labelled: ClassVar[bool] = True
    """False where the classes of `whole` mean nothing for the images made from it."""

    def __init__(self, whole: ImageSet, name: str = "", each: int = 1) -> None:
        """`name`: in messages, `whole`'s by default; `each`: images made from one."""
        self.whole, self.name, self.each = whole, name or whole.name, each
        self.classes: tuple[str, ...] = whole.classes if self.labelled else ()

    def __len__(self) -> int:
        return len(self.whole) * self.each

    def image(self, index: int) -> PIL.Image.Image:
        """Image `index`, RGB."""
        raise NotImplementedError

    def identity(self) -> str:
        """Everything beside `whole` that decides the images, for the digest."""
        raise NotImplementedError

    def label(self, index: int) -> int:
        return self.whole.label(index // self.each) if self.labelled else -1

    def describe(self, index: int) -> str:
        return self.whole.describe(index // self.each)

    def digest(self) -> str:
        return part_digest(self.whole.digest(), self.identity().encode())

    def account(self) -> Account:
        return self.whole.account()

    def conversions(self, index: int) -> tuple[str, ...]:
        return self.whole.conversions(index // self.each)

    def read_ahead(self, positions: np.ndarray) -> None:
        """Has what these images are made from fetched, where the whole set is not at hand."""
        read_ahead(self.whole, positions // self.each)
