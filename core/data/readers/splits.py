"""Names of splits: which folder or shards of a root are trained on, and which are measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from core.data.decode import EXTENSIONS
from core.data.readers.folder import is_hidden
from core.errors import UserError

Split = Literal["pretrain", "train", "val"]
TRAIN = ("train", "training")
VAL = ("val", "validation", "valid", "dev", "eval")
TEST = ("test", "testing")
"""Measured only where there is none of `VAL`, which is noted."""


def split_names(split: Split) -> tuple[str, ...]:
    """Names that the split may have, the most usual first."""
    return (*VAL, *TEST) if split == "val" else TRAIN


def split_notes(split: Split, name: str, root: str) -> tuple[str, ...]:
    """Notes where `name` is not the usual one of the split."""
    if split == "val" and name.lower() in TEST:
        return (f"{root}: measured on {name}, as the folder has none of {', '.join(VAL[:3])}",)
    usual = split_names(split)[0]
    return () if name == usual else (f"{root}: {name} taken as {usual}",)


def split_folder(root: Path, split: Split) -> tuple[Path, tuple[str, ...]]:
    """Folder of a split below `root` (in any case of letters), and notes on the choice.

    For pre-training the root itself, unless it is divided into splits: a class called `train` among other classes is
    not a split. Raises `UserError` where a labelled split is missing.
    """
    there = _folders(root)
    names = split_names(split)
    chosen = next((match for name in names for match in _matches(name, there)), None)
    if split == "pretrain":
        if chosen is None:
            return root, ()
        others = [name for name in there if name != chosen]
        if not _is_divided(root / chosen, others):
            return root, (f"{root}: {chosen} taken as a class, as it lies beside {', '.join(others[:5])}",)
        rest = [name for name in others if name.lower() not in (*TRAIN, *VAL, *TEST)]
        unused = (f"{root}: only {chosen} is used, not {', '.join(rest[:5])}",) if rest else ()
        return root / chosen, (*split_notes(split, chosen, str(root)), *unused, *_beside(root, chosen))
    if chosen is None:
        if not root.is_dir():
            return root, ()  # the reader says so
        raise UserError(f"{root} has no {' or '.join(names)} folder; labelled evaluation needs root/train and root/val")
    notes = split_notes(split, chosen, str(root))
    usual = VAL if split == "val" and chosen.lower() in VAL else TRAIN if split == "train" else ()
    also = [name for name in there if name.lower() in usual and name != chosen]
    unused = (f"{root}: {chosen} is used, not {', '.join(also)}",) if also else ()
    return root / chosen, (*notes, *unused, *_beside(root, chosen))


def _beside(root: Path, chosen: str) -> tuple[str, ...]:
    """A note on images at the root, beside the folder of the split."""
    images = sum(not is_hidden(entry.name) and entry.name.lower().endswith(EXTENSIONS) for entry in os.scandir(root))
    return (f"{root}: {images:,} images beside {chosen} are not used",) if images else ()


def _folders(root: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not is_hidden(entry.name))
    except OSError:
        return []  # the reader says why


def _matches(name: str, there: list[str]) -> list[str]:
    return [name] if name in there else [each for each in there if each.lower() == name]


def _is_divided(train: Path, others: list[str]) -> bool:
    """True where `train` is a split: alone, beside another split, or itself made of class folders."""
    if not others or any(name.lower() in (*TRAIN, *VAL, *TEST) for name in others):
        return True
    try:
        entries = [entry for entry in os.scandir(train) if not is_hidden(entry.name)]
    except OSError:
        return True
    images = any(not entry.is_dir() and entry.name.lower().endswith(EXTENSIONS) for entry in entries)
    return not images and any(entry.is_dir() for entry in entries)
