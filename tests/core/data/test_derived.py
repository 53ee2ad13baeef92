"""Image sets made from others: positions, labels, digests, and what is fetched ahead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from core.data.derived import Derived
from core.data.digests import part_digest
from core.data.readers.folder import Folder
from core.data.subset import Subset


class Halves(Derived):
    """Both halves of each image."""

    def __init__(self, whole: Folder | Subset, share: float) -> None:
        super().__init__(whole, each=2)
        self.share = share

    def image(self, index: int) -> PIL.Image.Image:
        position, half = divmod(index, self.each)
        image = self.whole.image(position)
        width = int(image.width * self.share)
        return image.crop((0, 0, width, image.height) if half == 0 else (width, 0, image.width, image.height))

    def identity(self) -> str:
        return f"halves {self.share}"


class Unlabelled(Halves):
    labelled = False


def test_images_are_found_by_the_one_they_are_made_from(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Folder(image_folder / "train", "folder:train")
    halves = Halves(whole, 0.5)
    assert (len(halves), halves.name, halves.classes) == (2 * len(whole), whole.name, whole.classes)
    for index in (0, 1, len(halves) - 1):
        assert (halves.label(index), halves.describe(index)) == (whole.label(index // 2), whole.describe(index // 2))
        assert halves.conversions(index) == whole.conversions(index // 2)
    assert halves.digest() == part_digest(whole.digest(), b"halves 0.5") != Halves(whole, 0.4).digest()
    assert halves.account() == whole.account()
    assert (Unlabelled(whole, 0.5).classes, Unlabelled(whole, 0.5).label(3)) == ((), -1)
    fetched: list[list[int]] = []
    monkeypatch.setattr(Folder, "read_ahead", lambda _, positions: fetched.append(positions.tolist()), raising=False)
    halves.read_ahead(np.array([5, 0, 1]))
    Halves(Subset(whole, np.array([3, 2, 1]), "three"), 0.5).read_ahead(np.array([4, 0]))
    assert fetched == [[2, 0, 0], [1, 3]]
