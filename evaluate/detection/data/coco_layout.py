"""Where a split in COCO's format lies: COCO's own folders, or those that other tools write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.data.readers.splits import TEST, TRAIN, VAL
from core.errors import UserError

_FILES = ("annotations/instances_{}.json", "annotations/{}.json", "{}/_annotations.coco.json", "{}.json")
"""Annotations of a split: COCO's, CVAT's and FiftyOne's name; a plain one; Roboflow's; beside the folder."""
_FOLDERS = ("{}", "images/{}", "images")
"""Images of a split: COCO's and Roboflow's folder, CVAT's, one for all splits."""
_NAMES = {"train": ("train2017", *TRAIN, "train2014"), "val": ("val2017", *VAL, "val2014", *TEST)}


@dataclass(frozen=True)
class CocoSplit:
    """Annotation file and image folder of a split."""

    file: Path
    folder: Path
    name: str
    """The split's name in the layout: `train2017`, `valid`, …"""
    notes: tuple[str, ...]
    """Decisions for the account."""


def find_split(root: Path, split: str) -> CocoSplit:
    """The split train or val below `root`. Raises `UserError` where no annotation file or no image folder is found."""
    names = _NAMES[split]
    found = [(name, file) for name in names for pattern in _FILES if (file := root / pattern.format(name)).is_file()]
    if not found:
        reason = "" if root.is_dir() else f" (no folder {root})"
        raise UserError(
            f"no annotations {root / _FILES[0].format(names[0])}{reason}; --data coco:ROOT needs "
            f"ROOT/annotations/instances_train2017.json and instances_val2017.json beside ROOT/train2017 and "
            f"ROOT/val2017, or ROOT/train and ROOT/valid with images and _annotations.coco.json"
        )
    name, file = found[0]
    folders = [root / pattern.format(name) for pattern in _FOLDERS]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise UserError(f"{file} has no folder of images ({', '.join(map(str, folders))}); complete the data")
    return CocoSplit(file, folder, name, tuple(_notes(split, found, folder, root)))


def _notes(split: str, found: list[tuple[str, Path]], folder: Path, root: Path) -> list[str]:
    name, file = found[0]
    notes = []
    if name in TEST:
        notes.append(f"{root}: measured on {name}, as there are no annotations of {', '.join(VAL[:3])}")
    elif name != _NAMES[split][0]:
        notes.append(f"{root}: {split} is {name}, with {file.relative_to(root)}")
    if others := [str(other.relative_to(root)) for each, other in found[1:] if each not in TEST]:
        notes.append(f"{root}: {file.relative_to(root)} is used, not {', '.join(others)}")
    if folder.name == "images":
        notes.append(f"{root}: all splits share the folder images")
    return notes
