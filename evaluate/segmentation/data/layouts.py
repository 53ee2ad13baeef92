"""Where the images and labels of ADE20K, VOC12aug, Cityscapes and the built-in scenes lie, and what they are called."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.data.scenes.coco_ade20k_folders import write_ade20k
from core.data.scenes.image_set import Scenes
from core.data.scenes.render import CLASSES as SHAPES
from core.errors import UserError
from core.files.cache_folder import cache_folder
from evaluate.segmentation.protocol import SegmentDataConfig

Split = Literal["train", "val"]

_EXAMPLE = {"ade20k": "ADEChallengeData2016", "voc12aug": "VOCdevkit/VOC2012", "cityscapes": "cityscapes"}


@dataclass(frozen=True)
class Part:
    """Images of one folder with labels of another, as MMSegmentation's data sets take them."""

    images: str
    """Folder of the images, below the root."""
    labels: str
    """Folder of the labels, below the root."""
    image_suffix: str
    """What image files end with …"""
    label_suffix: str
    """… and label files in its place."""
    listed: str = ""
    """File with the names, one a line, below the root; empty: every image in the folder."""


def parts(layout: str, split: Split) -> tuple[Part, ...]:
    """The folders of one split."""
    if layout in ("ade20k", "scenes"):
        name = {"train": "training", "val": "validation"}[split]
        return (Part(f"images/{name}", f"annotations/{name}", ".jpg", ".png"),)
    if layout == "cityscapes":
        return (Part(f"leftImg8bit/{split}", f"gtFine/{split}", "_leftImg8bit.png", "_gtFine_labelTrainIds.png"),)
    lists = "ImageSets/Segmentation"
    own = Part("JPEGImages", "SegmentationClass", ".jpg", ".png", f"{lists}/{split}.txt")
    if split == "val":
        return (own,)
    return own, Part("JPEGImages", "SegmentationClassAug", ".jpg", ".png", f"{lists}/aug.txt")


def find_root(config: SegmentDataConfig) -> Path:
    """The folder that holds the parts; scenes are written first. Raises `UserError` where it isn't there."""
    if config.layout == "scenes":
        if config.root:
            raise UserError(f"scenes are built in, so data.root={config.root} can't hold; leave --data out")
        sets = [Scenes(split, config.scenes).digest() for split in ("train", "test")]
        name = hashlib.sha256(" ".join(sets).encode()).hexdigest()[:12]
        return write_ade20k(cache_folder() / f"scenes-ade20k-{name}", config.scenes)
    example = _EXAMPLE[config.layout]
    if not config.root:
        raise UserError(f"the protocol needs data in the layout {config.layout}; pass --data /path/to/{example}")
    given = Path(config.root).expanduser()
    if not given.is_dir():
        raise UserError(f"no folder {given}; pass --data /path/to/{example}")
    first = parts(config.layout, "train")[0].images
    for root in (given, given / Path(example).name, given / example):
        if (root / first).is_dir():
            return root
    raise UserError(f"{given} is no {config.layout}: it has no folder {first}; pass --data /path/to/{example}")


def list_split(root: Path, layout: str, split: Split) -> list[tuple[Path, Path]]:
    """(image, label) of every sample, in order. Raises `UserError` for a missing file or folder and an empty split."""
    pairs = []
    for part in parts(layout, split):
        for folder in (part.images, part.labels):
            if not (root / folder).is_dir():
                raise UserError(f"{root} has no folder {folder}, which the layout {layout} needs; complete the data")
        names = _listed(root / part.listed) if part.listed else _found(root / part.images, part.image_suffix)
        for name in names:
            image = root / part.images / f"{name}{part.image_suffix}"
            label = root / part.labels / f"{name}{part.label_suffix}"
            for file, what in ((image, "image"), (label, "label")):
                if not file.is_file():
                    raise UserError(_missing(layout, file, what, image))
            pairs.append((image, label))
    if not pairs:
        raise UserError(
            f"{root} has no images of the split {split} ({parts(layout, split)[0].images}); complete the data"
        )
    return pairs


def _found(folder: Path, suffix: str) -> list[str]:
    found = sorted(file.relative_to(folder).as_posix() for file in folder.rglob(f"*{suffix}"))
    return [name.removesuffix(suffix) for name in found]


def _listed(file: Path) -> list[str]:
    """The names in a list of images, one a line; blank lines are none."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"can't read the list of images {file} ({error.strerror}); complete the data") from None
    except UnicodeDecodeError:
        raise UserError(f"the list of images {file} is no text in UTF-8; complete the data") from None
    names: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (name := line.strip()):
            continue
        if re.search(r"\s|/|\\|\.(jpe?g|png)$", name, re.IGNORECASE):
            raise UserError(
                f"line {number} of {file} is {name!r}, not the name of an image without folder, ending and further "
                f"columns; take the layout's own list, or mend this one"
            )
        if name in names:
            raise UserError(f"{file} names {name} twice, in lines {names[name]} and {number}; mend the list")
        names[name] = number
    return list(names)


def _missing(layout: str, file: Path, what: str, image: Path) -> str:
    if layout == "cityscapes" and what == "label":
        return f"no label {file} for {image.name}; make the trainIds with cityscapesScripts' createTrainIdLabelImgs"
    return f"no {what} {file}" + (f" for {image.name}" if what == "label" else "") + "; complete the data"


def check_class_list(root: Path, config: SegmentDataConfig) -> None:
    """Raises `UserError` where ADE20K's own class list has another number of classes than the protocol."""
    names = _class_list(root) if config.layout in ("ade20k", "scenes") else None
    if names is not None and len(names) != config.classes:
        raise UserError(
            f"{root / 'objectInfo150.txt'} lists {len(names)} classes, the protocol has {config.classes}; pass the "
            f"data of the protocol, or data.classes={len(names)}"
        )


def _class_list(root: Path) -> list[str] | None:
    file = root / "objectInfo150.txt"
    if not file.is_file():
        return None
    rows = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[1:]
    return [row.split("\t")[-1].strip() for row in rows]


def class_names(root: Path, config: SegmentDataConfig) -> tuple[str, ...]:
    """Names in label order; MMSegmentation's where the data has none. Needs MMSegmentation (`import_mmseg`)."""
    if config.layout == "scenes":
        return ("background", *SHAPES)
    if config.layout == "ade20k":
        from mmseg.datasets import ADE20KDataset

        known = ADE20KDataset.METAINFO["classes"]
        if config.classes == len(known):
            return tuple(known)
        return tuple(_class_list(root) or [f"class {number}" for number in range(config.classes)])
    from mmseg.datasets import CityscapesDataset, PascalVOCDataset

    return tuple((PascalVOCDataset if config.layout == "voc12aug" else CityscapesDataset).METAINFO["classes"])


def split_facts(root: Path, layout: str, split: Split, pairs: list[tuple[Path, Path]]) -> dict[str, Any]:
    """What the result file says about a split; the digest is over names and sizes of all files."""
    digest = hashlib.sha256()
    for pair in pairs:
        for file in pair:
            digest.update(f"{file.relative_to(root).as_posix()} {file.stat().st_size}\n".encode())
    return {"name": f"{layout}:{split}", "images": len(pairs), "digest": digest.hexdigest()}
