"""Broken images: replaced by others, each reported once; too many of them end the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL.Image

from core.data.base import ImageSet
from core.distributed import gather_objects
from core.errors import BrokenImage, UserError

REPLACEMENTS = 10
"""Other images tried in place of a broken one before giving up."""
BROKEN_FILE = "broken_training_images.txt"
"""File of a run folder in which loader processes list training images that turn out to be broken, one per line."""

Content = TypeVar("Content")


class BrokenImages:
    """Collects the names of broken images of one data set."""

    def __init__(self, total: int, allowed_share: float) -> None:
        self.total = total
        self.allowed_share = allowed_share
        self.names: list[str] = []
        self._known: set[str] = set()

    def add(self, names: Iterable[str]) -> list[str]:
        """Records the names and returns those not seen before.

        Raises `UserError` with the list once more than `allowed_share` of all images are broken.
        """
        new = []
        for name in names:
            if name not in self._known:
                self._known.add(name)
                new.append(name)
        self.names.extend(new)
        if new and len(self.names) > self.allowed_share * self.total:
            listed = "; ".join(self.names[:20]) + ("; …" if len(self.names) > 20 else "")
            raise UserError(
                f"{len(self.names)} of {self.total} images are broken, more than the allowed share "
                f"{self.allowed_share:g}: {listed}; fix or remove them, or raise broken_share"
            )
        return new

    def add_of_all_ranks(self, names: Sequence[str]) -> list[str]:
        """`add` of the names that each rank has found; to be called by all."""
        return self.add(name for found in gather_objects(names) for name in found)


def decode_or_replace(images: ImageSet, index: int, rng: np.random.Generator) -> tuple[PIL.Image.Image, int, list[str]]:
    """Image `index`, or one drawn at random where it is broken; its position, and the names of the broken ones.

    Raises `UserError` as `read_or_replace` does.
    """
    return read_or_replace(images.image, images, index, rng)


def read_or_replace(
    read: Callable[[int], Content], images: ImageSet, index: int, rng: np.random.Generator
) -> tuple[Content, int, list[str]]:
    """Content that `read` returns for image `index`, or for one drawn at random where it raises `BrokenImage`.

    Returns its position and the names of the broken images, too. Raises `UserError` where `REPLACEMENTS` images drawn
    in its place are broken too.
    """
    broken: list[str] = []
    while True:
        try:
            return read(index), index, broken
        except BrokenImage as error:
            broken.append(error.where)
            if len(broken) > REPLACEMENTS:
                raise UserError(
                    f"{len(broken)} images of {images.name} drawn one after another are broken "
                    f"(the last: {error}); check that the data set is complete"
                ) from error
        index = int(rng.integers(len(images)))


def note_broken(report: Path, name: str, total: int, share: float) -> None:
    """Adds a name to the file `report`, once. Raises `UserError` if it lists more than `share` of `total` images."""
    account = BrokenImages(total, share)
    account.add(read_lines(report))
    if name not in account.names:
        # Several loader processes append; one short write is never torn.
        with report.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")
    account.add([name])


def read_lines(report: Path) -> list[str]:
    """The names in the file, each once; empty if there is no file."""
    if not report.is_file():
        return []
    return list(dict.fromkeys(report.read_text(encoding="utf-8", errors="replace").splitlines()))
