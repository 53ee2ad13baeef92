"""Data sets made of others: a seeded sample, a few images per class, other labels, further notes."""

from __future__ import annotations

import numpy as np
import PIL.Image

from core.data.account import Account
from core.data.base import ImageSet, read_ahead, stored_bytes
from core.data.digests import part_digest
from core.errors import UserError


class Subset:
    """Images of `whole` at `positions`, in that order. `what` describes how they were chosen."""

    def __init__(self, whole: ImageSet, positions: np.ndarray, what: str) -> None:
        self.whole = whole
        self.positions = positions
        self.name = f"{whole.name} ({what})"
        self.classes = whole.classes
        self.blocks = _blocks_of(whole, positions)
        """Position of each shard's first image; None where the set has no shards or the order is not ascending."""

    def __len__(self) -> int:
        return len(self.positions)

    def image(self, index: int) -> PIL.Image.Image:
        return self.whole.image(int(self.positions[index]))

    def stored_bytes(self, index: int) -> bytes | None:
        return stored_bytes(self.whole, int(self.positions[index]))

    def label(self, index: int) -> int:
        return self.whole.label(int(self.positions[index]))

    def describe(self, index: int) -> str:
        return self.whole.describe(int(self.positions[index]))

    def digest(self) -> str:
        return part_digest(self.whole.digest(), self.positions.astype("<i8").tobytes())

    def account(self) -> Account:
        """That of the whole set, and the images that were not chosen."""
        rest = len(self.whole) - len(np.unique(self.positions))
        return self.whole.account() + Account({"not in the sample": rest} if rest else {})

    def conversions(self, index: int) -> tuple[str, ...]:
        return self.whole.conversions(int(self.positions[index]))

    def read_ahead(self, positions: np.ndarray) -> None:
        """Has what these images lie in fetched, where the whole set is not at hand."""
        read_ahead(self.whole, self.positions[positions])


class Renamed:
    """The same images under other class names: classes of `whole` are found by name among `classes`."""

    def __init__(self, whole: ImageSet, classes: tuple[str, ...]) -> None:
        self.whole, self.name, self.classes = whole, whole.name, classes
        self.blocks: np.ndarray | None = getattr(whole, "blocks", None)
        number = {name: label for label, name in enumerate(classes)}
        self._labels = [number.get(name, -1) for name in whole.classes]

    def __len__(self) -> int:
        return len(self.whole)

    def image(self, index: int) -> PIL.Image.Image:
        return self.whole.image(index)

    def stored_bytes(self, index: int) -> bytes | None:
        return stored_bytes(self.whole, index)

    def label(self, index: int) -> int:
        label = self.whole.label(index)
        return self._labels[label] if label >= 0 else -1

    def describe(self, index: int) -> str:
        return self.whole.describe(index)

    def digest(self) -> str:
        return part_digest(self.whole.digest(), "\n".join(self.classes).encode())  # the same images, other labels

    def account(self) -> Account:
        """That of the whole set, and which classes it lacks."""
        absent = [name for name in self.classes if name not in set(self.whole.classes)]
        empty = [name for name, label in zip(self.whole.classes, self._labels, strict=True) if label < 0]
        notes = [f"{self.name}: classes matched by name"]
        if absent:
            notes.append(f"{self.name}: {len(absent)} of {len(self.classes)} classes absent ({', '.join(absent[:10])})")
        if empty:
            notes.append(f"{self.name}: unknown classes without images ignored ({', '.join(empty[:10])})")
        return self.whole.account() + Account(notes=tuple(notes))

    def conversions(self, index: int) -> tuple[str, ...]:
        return self.whole.conversions(index)

    def read_ahead(self, positions: np.ndarray) -> None:
        """As of the whole set."""
        read_ahead(self.whole, positions)


class Noted(Subset):
    """All images of `whole` under the same name, with further notes in its account."""

    def __init__(self, whole: ImageSet, notes: tuple[str, ...]) -> None:
        super().__init__(whole, np.arange(len(whole)), "")
        self.name, self._notes = whole.name, notes

    def digest(self) -> str:
        return self.whole.digest()

    def account(self) -> Account:
        return self.whole.account() + Account(notes=self._notes)


def noted(images: ImageSet, *notes: str) -> ImageSet:
    """`images`, with `notes` in their account if there are any."""
    return Noted(images, notes) if notes else images


def match_classes(train: ImageSet, val: ImageSet) -> ImageSet:
    """`val` with the classes of `train`, found by name; its own order and number of classes don't matter.

    Raises `UserError` where `val` has images of a class that `train` doesn't know.
    """
    if val.classes == train.classes or not val.classes or not train.classes:
        return val
    if unknown := [name for name in val.classes if name not in set(train.classes)]:
        counts = np.bincount(labels_of(val), minlength=len(val.classes))
        if used := [name for name in unknown if counts[val.classes.index(name)]]:
            raise UserError(
                f"class {used[0]} of {val.name} is absent in {train.name} ({len(used)} such classes); add training "
                f"images of it, or remove its validation images"
            )
    return Renamed(val, train.classes)


def sample(images: ImageSet, count: int, seed: int) -> ImageSet:
    """`count` images drawn without replacement, in ascending position; all of a smaller set, which is noted."""
    if count > len(images):
        return noted(images, f"{images.name}: all {len(images)} images, fewer than the limit of {count}")
    positions = np.sort(np.random.default_rng((seed, 0)).permutation(len(images))[:count])
    return Subset(images, positions, f"{count} of {len(images)}, seed {seed}")


def few_shot(images: ImageSet, shots: int, seed: int) -> Subset:
    """`shots` images of every class, drawn without replacement, in ascending position."""
    labels = labels_of(images)
    order = np.random.default_rng((seed, 1)).permutation(len(labels))
    chosen = []
    for label, name in enumerate(images.classes):
        members = order[labels[order] == label]
        if len(members) < shots:
            raise UserError(f"{shots} shots asked for, but class {name} of {images.name} has {len(members)} images")
        chosen.append(members[:shots])
    return Subset(images, np.sort(np.concatenate(chosen)), f"{shots} per class, seed {seed}")


def _blocks_of(whole: ImageSet, positions: np.ndarray) -> np.ndarray | None:
    blocks: np.ndarray | None = getattr(whole, "blocks", None)
    if blocks is None or len(positions) == 0 or (np.diff(positions) <= 0).any():
        return None
    return np.flatnonzero(np.diff(np.searchsorted(blocks, positions, side="right"), prepend=-1))


def labels_of(images: ImageSet) -> np.ndarray:
    """All labels, int64 [len(images)]; `UserError` for a set without labels."""
    if not images.classes:
        raise UserError(f"{images.name} has no labels; give class folders or shards with .cls members")
    return np.array([images.label(index) for index in range(len(images))], dtype=np.int64)
