"""Smaller data sets from larger ones: a seeded sample, or a few images per class."""

from __future__ import annotations

import hashlib

import numpy as np
import PIL.Image

from core.data.base import ImageSet
from core.errors import UserError


class Subset:
    """The images of `whole` at `positions`, in that order. `what` says how they were chosen."""

    def __init__(self, whole: ImageSet, positions: np.ndarray, what: str) -> None:
        self.whole = whole
        self.positions = positions
        self.name = f"{whole.name} ({what})"
        self.classes = whole.classes

    def __len__(self) -> int:
        return len(self.positions)

    def image(self, index: int) -> PIL.Image.Image:
        return self.whole.image(int(self.positions[index]))

    def label(self, index: int) -> int:
        return self.whole.label(int(self.positions[index]))

    def describe(self, index: int) -> str:
        return self.whole.describe(int(self.positions[index]))

    def digest(self) -> str:
        return hashlib.sha256(self.whole.digest().encode() + self.positions.astype("<i8").tobytes()).hexdigest()


def sample(images: ImageSet, count: int, seed: int) -> Subset:
    """`count` images drawn without replacement, in ascending position."""
    if count > len(images):
        raise UserError(f"limit {count} is more than the {len(images)} images of {images.name}")
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


def labels_of(images: ImageSet) -> np.ndarray:
    """All labels, int64 [len(images)]; `UserError` for a set without labels."""
    if not images.classes:
        raise UserError(f"{images.name} has no labels; give class folders or shards with .cls members")
    return np.array([images.label(index) for index in range(len(images))], dtype=np.int64)
