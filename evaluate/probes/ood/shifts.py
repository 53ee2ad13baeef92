"""Shifted test sets, as their authors lay them out, with labels in the classes of the heads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from core.data.account import Account
from core.data.base import ImageSet
from core.data.digests import part_digest
from core.data.readers.folder import Folder
from core.errors import UserError

FOLDERS = {
    "imagenet-a": ("imagenet-a",),
    "imagenet-r": ("imagenet-r",),
    "imagenet-sketch": ("imagenet-sketch", "sketch"),
    "imagenet-v2": ("imagenet-v2", "imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency"),
    "objectnet": ("objectnet", "objectnet-1.0"),
    "imagenet-c": ("imagenet-c",),
}
"""Names that the folder of a set may have below the root."""
RESTRICTED = {"imagenet-a": 200, "imagenet-r": 200}
"""Sets of a part of the classes, among which alone the answer is looked for, and how many they have."""
C_CORRUPTIONS = {
    "gaussian_noise": 0.886428, "shot_noise": 0.894468, "impulse_noise": 0.922640, "defocus_blur": 0.819880,
    "glass_blur": 0.826268, "motion_blur": 0.785948, "zoom_blur": 0.798360, "snow": 0.866816, "frost": 0.826572,
    "fog": 0.819324, "brightness": 0.564592, "contrast": 0.853204, "elastic_transform": 0.646056,
    "pixelate": 0.717840, "jpeg_compression": 0.606500,
}  # fmt: skip
"""The 15 corruptions of ImageNet-C's mean, and AlexNet's mean error on each (released code of arXiv 1903.12261)."""
_BORDER = 2
"""Pixels of ObjectNet's red border."""


@dataclass(frozen=True)
class Shift:
    """One shifted test set."""

    images: ImageSet
    """Labels are classes of the heads, or of the groups."""
    groups: tuple[tuple[int, ...], ...] | None = None
    """Classes of the heads behind each answer, whose best score counts; None: every class is an answer."""


class Relabelled:
    """Images of `whole` at `positions`, with other labels; `border` pixels are cut off at each side."""

    def __init__(
        self, whole: ImageSet, positions: Sequence[int], labels: Sequence[int], classes: Sequence[str], border: int = 0
    ) -> None:
        self.whole, self.name, self.classes = whole, whole.name, tuple(classes)
        self._positions, self._labels, self._border = np.asarray(positions), np.asarray(labels), border

    def __len__(self) -> int:
        return len(self._positions)

    def image(self, index: int) -> PIL.Image.Image:
        image = self.whole.image(int(self._positions[index]))
        cut = self._border
        return image.crop((cut, cut, image.width - cut, image.height - cut)) if cut else image

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def describe(self, index: int) -> str:
        return self.whole.describe(int(self._positions[index]))

    def digest(self) -> str:
        text = f"{self._positions.tolist()} {self._labels.tolist()} {self.classes} {self._border}"
        return part_digest(self.whole.digest(), text.encode())

    def account(self) -> Account:
        rest = len(self.whole) - len(self)
        return self.whole.account() + Account({"not of a shared class": rest} if rest else {})

    def conversions(self, index: int) -> tuple[str, ...]:
        return self.whole.conversions(int(self._positions[index]))


def find_set(root: Path, name: str) -> Path:
    """Folder of a set below the root. Raises `UserError` if there is none."""
    found = next((folder for each in FOLDERS[name] if (folder := root / each).is_dir()), None)
    if found is None:
        raise UserError(
            f"{root} has no folder {' or '.join(FOLDERS[name])}; set shift_root to the folder that holds it, or leave "
            f"{name} out of sets"
        )
    return found


def open_folder(folder: Path, name: str, classes: Sequence[str]) -> Shift:
    """A set of class folders named as the heads' classes (or by their numbers, as in ImageNet-V2).

    Raises `UserError` for folders that are not classes, and for another number of them than the set has.
    """
    images = Folder(folder, f"{name}:{folder}")
    if name == "imagenet-v2":
        wanted = {str(number): number for number in range(len(classes))}
    else:
        wanted = {each: number for number, each in enumerate(classes)}
    if unknown := [each for each in images.classes if each not in wanted]:
        raise UserError(
            f"{folder} has the class folder {unknown[0]}, which the clean data doesn't know ({len(unknown)} such "
            f"folders); pass the ImageNet that the heads were trained on as --data"
        )
    if (count := RESTRICTED.get(name)) is not None and len(images.classes) != count:
        raise UserError(f"{folder} has {len(images.classes)} class folders, but {name} has {count}; complete it")
    numbers = [wanted[each] for each in images.classes]
    labels = [images.label(index) for index in range(len(images))]
    if name in RESTRICTED:
        groups = tuple((number,) for number in numbers)
        return Shift(Relabelled(images, range(len(labels)), labels, images.classes), groups)
    return Shift(Relabelled(images, range(len(labels)), [numbers[label] for label in labels], classes))


def check_c(folder: Path) -> None:
    """Raises `UserError` unless all 75 cells of ImageNet-C are there: a shorter mean would not be mCE."""
    for corruption in C_CORRUPTIONS:
        for severity in range(1, 6):
            _c_cell(folder, corruption, severity)


def open_c_cell(folder: Path, corruption: str, severity: int, classes: Sequence[str]) -> Shift:
    """One cell of ImageNet-C. Raises `UserError` for a missing one."""
    return open_folder(_c_cell(folder, corruption, severity), "imagenet-c", classes)


def _c_cell(folder: Path, corruption: str, severity: int) -> Path:
    # The archives are groups (blur/defocus_blur/…); extracted together they lie side by side.
    places = [folder / corruption, *(group / corruption for group in sorted(folder.iterdir()) if group.is_dir())]
    found = next((place for each in places if (place := each / str(severity)).is_dir()), None)
    if found is None:
        raise UserError(f"{folder} has no {corruption}/{severity}, and mCE is the mean over all 75; complete the set")
    return found


def open_objectnet(folder: Path, classes: Sequence[str], restricted: bool) -> Shift:
    """ObjectNet's images of the classes that it shares with ImageNet, without their red border.

    Raises `UserError` for missing or malformed mappings, and for heads without ImageNet's 1,000 classes.
    """
    mappings = folder / "mappings"
    to_label = _mapping(mappings / "folder_to_objectnet_label.json")
    to_names = _mapping(mappings / "objectnet_to_imagenet_1k.json")
    to_line = _mapping(mappings / "pytorch_to_imagenet_2012_id.json")
    lines = _lines(mappings / "imagenet_to_label_2012_v2")
    if len(to_line) != len(classes):
        raise UserError(f"{mappings} maps {len(to_line)} classes, and the clean data has {len(classes)}; pass ImageNet")
    try:
        number = {lines[int(line)]: int(own) for own, line in to_line.items()}
        shared = {label: tuple(number[each.strip()] for each in names.split(";")) for label, names in to_names.items()}
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise UserError(
            f"the mappings in {mappings} don't fit together ({error}); restore the data set's own"
        ) from None
    images = Folder(folder / "images", f"objectnet:{folder}")
    answers = sorted({to_label[each] for each in images.classes if to_label.get(each) in shared})
    if not answers:
        raise UserError(f"{folder}/images has no class that ImageNet knows; complete the data set")
    positions, labels = [], []
    for index in range(len(images)):
        label = to_label.get(images.classes[images.label(index)])
        if label in shared:
            positions.append(index)
            labels.append(answers.index(label))
    groups = [shared[label] for label in answers]
    if not restricted:  # each class outside the answers is a wrong answer of its own
        known = {own for group in groups for own in group}
        groups += [(own,) for own in range(len(classes)) if own not in known]
    return Shift(Relabelled(images, positions, labels, answers, _BORDER), tuple(groups))


def _mapping(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"can't read {file} ({error}); ObjectNet needs its own mappings") from None
    if not isinstance(found, dict):
        raise UserError(f"{file} is not a mapping; restore the data set's own")
    return found


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read {file} ({error}); ObjectNet needs its own mappings") from None
