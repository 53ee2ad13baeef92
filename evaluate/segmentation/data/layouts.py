"""Directory layouts of ADE20K, VOC12aug, Cityscapes and the built-in scenes: the images and labels of each split."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from core.data.account import Account, merged_endings
from core.data.digests import files_digest
from core.data.scenes.coco_ade20k_folders import write_ade20k
from core.data.scenes.image_set import Scenes
from core.errors import UserError
from core.files.cache_folder import cache_folder
from core.files.user_path import user_path
from evaluate.segmentation.data.matching import LABEL_ENDINGS, Folder
from evaluate.segmentation.protocol import SegmentDataConfig

Split = Literal["train", "val"]

_EXAMPLE = {"ade20k": "ADEChallengeData2016", "voc12aug": "VOCdevkit/VOC2012", "cityscapes": "cityscapes"}
_ABOVE = (("images", "img_dir"), ("annotations", "ann_dir"))
"""Folders of images and of labels in ADE20K's layout: its own, then those of MMSegmentation's tutorials."""
_SPLIT_NAMES = {"train": ("training", "train"), "val": ("validation", "val", "valid")}
"""Names of the folders of a split in ADE20K's layout: its own, then those of other tools."""


@dataclass(frozen=True)
class Part:
    """Images of one folder with labels of another, as in MMSegmentation's data sets."""

    images: str
    """Folder of the images, relative to the root."""
    labels: str
    """Folder of the labels, relative to the root."""
    image_tag: str = ""
    """End of the image names, before the file ending …"""
    label_tag: str = ""
    """… and of the label names in its place."""
    listed: str = ""
    """File with the names, one per line, relative to the root; empty: every image in the folder."""


@dataclass(frozen=True)
class Samples:
    """Images and labels of a split."""

    pairs: tuple[tuple[Path, Path], ...]
    """(image, label) of every sample, in order."""
    account: Account = field(default_factory=Account)
    """Files that are not used, and decisions about others."""


def parts(root: Path, layout: str, split: Split) -> tuple[Part, ...]:
    """Folders of one split."""
    if layout in ("ade20k", "scenes"):
        image, label = (_split_folder(root, above, split) for above in _ABOVE)
        return (Part(image, label),)
    if layout == "cityscapes":
        return (Part(f"leftImg8bit/{split}", f"gtFine/{split}", "_leftImg8bit", "_gtFine_labelTrainIds"),)
    lists = "ImageSets/Segmentation"
    own = Part("JPEGImages", "SegmentationClass", listed=f"{lists}/{split}.txt")
    if split == "val":
        return (own,)
    return own, Part("JPEGImages", "SegmentationClassAug", listed=f"{lists}/aug.txt")


def _split_folder(root: Path, above: tuple[str, ...], split: Split) -> str:
    """The first existing folder of the split's names; ADE20K's own name if none exists."""
    names = [f"{folder}/{name}" for folder in above for name in _SPLIT_NAMES[split]]
    return next((name for name in names if (root / name).is_dir()), names[0])


def find_root(config: SegmentDataConfig) -> Path:
    """Folder that holds the parts; scenes are written first. Raises `UserError` if there is none."""
    if config.layout == "scenes":
        if config.root:
            raise UserError(f"scenes are built in, so data.root={config.root} has no effect; drop --data")
        sets = [Scenes(split, config.scenes).digest() for split in ("train", "test")]
        name = hashlib.sha256(" ".join(sets).encode()).hexdigest()[:12]
        return write_ade20k(cache_folder() / f"scenes-ade20k-{name}", config.scenes)
    example = _EXAMPLE[config.layout]
    if not config.root:
        raise UserError(f"the protocol needs data in the layout {config.layout}; pass --data /path/to/{example}")
    given = user_path(config.root)
    if not given.is_dir():
        raise UserError(f"no folder {given}; pass --data /path/to/{example}")
    for root in (given, given / Path(example).name, given / example):
        if (root / parts(root, config.layout, "train")[0].images).is_dir():
            return root
    first = parts(given, config.layout, "train")[0].images
    raise UserError(f"{given} is not in the layout {config.layout}: no folder {first}; pass --data /path/to/{example}")


def list_split(root: Path, layout: str, split: Split) -> Samples:
    """Samples of a split, in order. Raises `UserError` for a missing or ambiguous file or folder and an empty split."""
    pairs: list[tuple[Path, Path]] = []
    skipped, notes = Counter[str](), Counter[str]()
    for part in parts(root, layout, split):
        for folder in (part.images, part.labels):
            if not (root / folder).is_dir():
                raise UserError(f"{root} has no folder {folder}, which the layout {layout} needs; complete the data")
        images = Folder(root / part.images, part.image_tag)
        labels = Folder(root / part.labels, part.label_tag, LABEL_ENDINGS)
        names = _listed(root / part.listed) if part.listed else list(images)
        used: dict[Path, Path] = {}
        for name in names:
            image = images.find(name)
            if image is None:
                raise UserError(f"no image {images.path / name}{part.image_tag}.jpg (or .png, …); complete the data")
            label = labels.find(name)
            if label is None:
                raise UserError(_missing_label(layout, labels, name, image))
            if label in used:
                raise UserError(f"{used[label]} and {image} have one label, {label}; give each its own")
            used[label] = image
            pairs.append((image, label))
        notes.update(images.notes + labels.notes)
        if not part.listed:
            skipped.update(images.skipped)
            skipped.update({} if part.label_tag else labels.skipped)  # Cityscapes has further files per label
            skipped["label without an image"] += len(labels) - len(used)
    notes["used twice, listed in train.txt and in aug.txt"] += len(pairs) - len({image for image, _ in pairs})
    if not pairs:
        folder = parts(root, layout, split)[0].images
        raise UserError(f"{root} has no images of the split {split} ({folder}); complete the data")
    counted = tuple(f"{number:,} {reason}" for reason, number in sorted(notes.items()) if number)
    return Samples(tuple(pairs), Account(merged_endings(+skipped), notes=counted))


def _listed(file: Path) -> list[str]:
    """Names in a list of images, one per line; blank lines are ignored."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"can't read the list of images {file} ({error.strerror}); complete the data") from None
    except UnicodeDecodeError:
        raise UserError(f"the list of images {file} is not UTF-8 text; complete the data") from None
    names: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if (name := _name_in(line)) is None:
            raise UserError(
                f"line {number} of {file} is {line.strip()!r}, neither an image name nor an image and its label of the "
                f"same name; use the layout's own list or fix this one"
            )
        if name in names:
            raise UserError(f"{file} lists {name} twice, in lines {names[name]} and {number}; fix the list")
        names[name] = number
    return list(names)


def _name_in(line: str) -> str | None:
    """Name of the image in a line of a list; None if it isn't clear.

    Also of `/JPEGImages/NAME.jpg /SegmentationClassAug/NAME.png`, the form of DeepLab's and SBD's lists.
    """
    names = set()
    for column in line.split():
        name = re.sub(r"\.(jpe?g|png)$", "", column, flags=re.IGNORECASE)
        names.add(re.sub(r"^/?(JPEGImages|SegmentationClass(Aug|Raw)?)/", "", name))
    (name, *others) = names
    return None if others or name.startswith("/") or "\\" in name or ".." in name.split("/") else name


def _missing_label(layout: str, labels: Folder, name: str, image: Path) -> str:
    file = f"{labels.path / name}{labels.tag}.png"
    if lossy := next(
        (path for ending in (".jpg", ".jpeg", ".JPG") if (path := labels.path / f"{name}{ending}").is_file()), None
    ):
        return f"{lossy} is a JPEG, whose compression changes class numbers; save labels as PNG"
    if layout == "cityscapes":
        return f"no label {file} for {image.name}; create it with cityscapesScripts' createTrainIdLabelImgs"
    return f"no label {file} for {image.name}; complete the data"


def split_facts(root: Path, layout: str, split: Split, samples: Samples) -> dict[str, Any]:
    """Facts about a split for result.json. The digest covers all files; that of the built-in scenes names and sizes."""
    files = [(file.relative_to(root).as_posix(), file) for pair in samples.pairs for file in pair]
    if layout == "scenes":
        text = "".join(f"{name} {file.stat().st_size}\n" for name, file in files)
        digest = hashlib.sha256(text.encode()).hexdigest()
    else:
        digest = files_digest((os.fsencode(name), file) for name, file in files)
    return {"name": f"{layout}:{split}", "images": len(samples.pairs), "digest": digest}
