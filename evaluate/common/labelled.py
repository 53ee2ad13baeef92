"""Labelled images for probes: training (or bank) and validation (or queries), sampled and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import Any, Protocol

from core.data.account import account_of
from core.data.base import ImageSet
from core.data.open import DataConfig, open_images
from core.data.subset import match_classes, sample
from core.errors import UserError

SAMPLE_SEED = 0
"""Seed of the samples that limits keep: part of the protocol, so runs of different seeds see the same images."""


class Classed(Protocol):
    """An image set, or the features of one."""

    @property
    def name(self) -> str:
        """Name by which the user asked for the set."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order; empty where there are no labels."""
        ...


def open_labelled(
    config: DataConfig, train_limit: int | None, val_limit: int | None, seed: int
) -> tuple[ImageSet, ImageSet]:
    """Training and validation images. `seed` decides what `data.limit` keeps.

    Raises `UserError` where a probe can't be trained on them: no labels, a single class, or different classes.
    """
    train = open_images(config, "train", seed)
    val = match_classes(train, open_images(config, "val", seed))
    train, val = limited(train, train_limit), limited(val, val_limit)
    check_classes(train, val)
    return train, val


def limited(images: ImageSet, limit: int | None) -> ImageSet:
    """A fixed sample of `limit` images; all for None."""
    return images if limit is None else sample(images, limit, SAMPLE_SEED)


def check_classes(train: Classed, val: Classed) -> None:
    """Raises `UserError` unless train and val share at least two labelled classes."""
    for images in (train, val):
        if not images.classes:
            raise UserError(f"{images.name} has no labels; give class folders or shards with .cls members")
    if len(train.classes) < 2:
        raise UserError(f"{train.name} has the single class {train.classes[0]}; give at least two")
    # Shards know only the highest class number they hold, so validation may have fewer classes.
    for number, (theirs, ours) in enumerate(zip_longest(val.classes, train.classes[: len(val.classes)])):
        if theirs != ours:
            raise UserError(
                f"class {number} of {val.name} is {theirs}, but {ours or 'absent'} in {train.name}; "
                f"give both the same classes"
            )


def facts(images: ImageSet, broken: Iterable[str]) -> dict[str, Any]:
    """Entry of one part of the data in result.json, with its account (docs/data.md)."""
    return {
        "name": images.name,
        "images": len(images),
        "classes": len(images.classes),
        "digest": images.digest(),
        "broken": list(broken),
        "account": account_of(images).to_json(),
    }


def account_lines(parts: Mapping[str, ImageSet]) -> list[tuple[str, str]]:
    """Lines of a plan about what is skipped, converted or decided in each part of the data."""
    return [
        ("account", f"{part}: {line}" if line.startswith(("skipped", "converted")) else line)
        for part, images in parts.items()
        for line in account_of(images).lines()
    ]
