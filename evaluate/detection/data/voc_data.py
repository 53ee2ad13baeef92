"""Pascal VOC for detection: trainval of 2007 and 2012 to train, test of 2007 to measure, as in the 24k protocol."""

from __future__ import annotations

import hashlib
import math
import os
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.data.account import Account
from core.data.broken import BrokenImages
from core.data.decode import EXTENSIONS
from core.data.digests import files_digest
from core.errors import BrokenImage, UserError
from evaluate.detection.data.image_headers import read_header
from evaluate.detection.data.listed_files import find_files
from evaluate.detection.data.records import (
    MISSING,
    NO_SIZE,
    UNREADABLE,
    XYWH_ABS,
    DetectionSet,
    ObjectChecks,
)

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_MAX_FILE = 2**20
_MAX_SIDE = 100_000
_MOST_FOLDERS = 20
_FALSE, _TRUE = ("", "0", "false", "no", "unspecified"), ("1", "true", "yes")
CASE = "objects: class name in another case than VOC's"
_PARTS = {"train": (("VOC2007", "trainval"), ("VOC2012", "trainval")), "val": (("VOC2007", "test"),)}


@dataclass(frozen=True)
class VocObject:
    """One object of a test image, as VOC's evaluation takes it."""

    name: str
    """Its class."""
    difficult: bool
    """Counts neither as a hit nor as a miss."""
    corners: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels, counted from 1 and included."""


def open_voc(root: Path, split: str, share: float) -> DetectionSet:
    """The split's parts below `root` (or `root`/VOCdevkit), each with Annotations, ImageSets/Main and JPEGImages.

    Its `truth` is a list of `VocObject` by image id. Raises `UserError` for a missing or unreadable part, and if more
    than `share` is excluded.
    """
    if not (root / "VOC2007").is_dir() and (root / "VOCdevkit").is_dir():
        root = root / "VOCdevkit"
    reader = _Reader(ObjectChecks(str(root), share), hashlib.sha256(), Counter())
    images: list[tuple[bytes, Path]] = []
    records, excluded, truth = [], [], {}
    for year, part in _PARTS[split]:
        names = _listed(root / year / "ImageSets" / "Main" / f"{part}.txt")
        folder = root / year / "JPEGImages"
        files = _files(folder, names)
        found = find_files(folder, files.values(), share)
        excluded += found.missing
        reader.skipped[MISSING] += len(found.missing)
        reader.checks.converted += found.converted
        images += [(os.fsencode(f"{year}/{path}"), folder / path) for path in found.paths.values()]
        for name in names:
            image = folder / found.paths[files[name]] if files[name] in found.paths else None
            try:
                record, truth[name] = reader.read(root / year / "Annotations" / f"{name}.xml", image)
            except BrokenImage as error:
                excluded.append(str(error))
                reader.skipped[UNREADABLE] += 1
                continue
            if image is not None and record is not None:
                records.append(record | {"file_name": str(image), "image_id": name})
        BrokenImages(len(names), share).add(excluded)
    reader.checks.check()
    return DetectionSet(
        name=f"voc:{root} ({' + '.join(' '.join(part) for part in _PARTS[split])})",
        records=records,
        classes=CLASSES,
        category_ids=tuple(range(len(CLASSES))),
        digest=files_digest(images, reader.digest.digest()),
        excluded=(*excluded, *reader.checks.names),
        truth=truth,
        account=Account(dict(+(reader.skipped + reader.checks.skipped)), dict(reader.checks.converted)),
    )


def _listed(file: Path) -> list[str]:
    """Names in a list of VOC, one per line."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(
            f"can't read {file} ({error.strerror}); --data voc:ROOT needs ROOT/VOC2007 (trainval and test) and "
            f"ROOT/VOC2012, each with Annotations, ImageSets/Main and JPEGImages"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is not a list of image names (not UTF-8 text); download it again") from None
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise UserError(f"{file} lists no images; download it again")
    if odd := next((name for name in names if ".." in Path(name).parts or Path(name).is_absolute()), ""):
        raise UserError(f"{file} lists {odd!r}, which is not the name of an image; download it again")
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise UserError(f"{file} lists {twice} more than once; remove one of the lines")
    return names


def _files(folder: Path, names: list[str]) -> dict[str, str]:
    """File of each name: NAME.jpg as in VOC, or else the only image of that name."""
    by_stem: dict[str, list[str]] = {}
    for above, _, entries in os.walk(folder, followlinks=True):  # of names with folders, too
        below = "" if above == str(folder) else os.path.relpath(above, folder) + "/"
        if below.count("/") > _MOST_FOLDERS:  # links in a circle
            break
        for entry in sorted(entries):
            stem, ending = os.path.splitext(below + entry)
            if ending.lower() in EXTENSIONS:
                by_stem.setdefault(stem, []).append(below + entry)
    files = {}
    for name in names:
        found = by_stem.get(name, [])
        files[name] = found[0] if len(found) == 1 else f"{name}.jpg"
        if len(found) > 1 and files[name] not in found:
            raise UserError(f"{folder} has {' and '.join(found)} for the image {name}; keep one of them")
    return files


@dataclass
class _Reader:
    """Reads annotations one after another, and keeps what all have in common."""

    checks: ObjectChecks
    digest: Any
    skipped: Counter[str]

    def read(self, file: Path, image: Path | None) -> tuple[dict[str, Any] | None, list[VocObject]]:
        """Detectron2's record without the image, and the objects; `image` is its file, None if that is missing.

        As in VOC's own reader a missing `difficult` counts as 0; coordinates may be fractional and are rounded in the
        ground truth, because Detectron2's evaluation takes whole pixels. A size that is absent or 0, as labelling tools
        write it, is the image's. Raises `BrokenImage` if that can't be read.
        """
        try:
            with file.open("rb") as opened:
                content = opened.read(_MAX_FILE + 1)
            if len(content) > _MAX_FILE:
                raise UserError(f"{file} is longer than {_MAX_FILE:,} bytes, too long for an annotation; check it")
            self.digest.update(content)
            tree = ET.fromstring(content)
            size = [_whole((tree.findtext(f"size/{side}") or "").strip() or "0") for side in ("width", "height")]
            if 0 in size:
                if image is None:
                    return None, []
                size = list(read_header(image).upright_size)
                self.checks.converted[NO_SIZE] += 1
            if not all(0 < side <= _MAX_SIDE for side in size):
                raise ValueError(f"an image of {size[0]}×{size[1]} pixels")
            return self._objects(file, tree, size)
        except UserError:
            raise
        except (OSError, ET.ParseError, ValueError, LookupError, OverflowError, RecursionError) as error:
            raise UserError(f"{file} is not a readable annotation of VOC ({error}); download it again") from None

    def _objects(self, file: Path, tree: ET.Element, size: list[int]) -> tuple[dict[str, Any], list[VocObject]]:
        annotations, objects = [], []
        width, height = size
        for number, thing in enumerate(tree.iter("object")):
            name = thing.findtext("name", "").strip()
            if name not in CLASSES and name.lower() in CLASSES:
                name = name.lower()
                self.checks.converted[CASE] += 1
            if name not in CLASSES:
                raise UserError(
                    f"{file}: object {number} is of class {name!r}, which is not one of VOC's 20; fix the file"
                )
            left, top, right, bottom = corners = tuple(
                float(thing.findtext(f"bndbox/{s}", "")) for s in ("xmin", "ymin", "xmax", "ymax")
            )
            # VOC counts pixels from 1 and includes the last.
            box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
            if self.checks.refuses_box(f"{file.name}, object {number}", box, width, height):
                continue
            annotations.append({"bbox": box, "bbox_mode": XYWH_ABS, "category_id": CLASSES.index(name), "iscrowd": 0})
            first, second, third, fourth = (math.floor(corner + 0.5) for corner in corners)
            difficult = thing.findtext("difficult", "0").strip().lower()
            if difficult not in _TRUE + _FALSE:
                raise ValueError(f"object {number}: difficult is {difficult[:20]!r}, neither 0 nor 1")
            objects.append(VocObject(name, difficult in _TRUE, (first, second, third, fourth)))
        return {"height": height, "width": width, "annotations": annotations}, objects


def _whole(text: str) -> int:
    """A number of pixels, which some tools write with a decimal point. Raises `ValueError` for anything else."""
    if float(text) != int(float(text)):
        raise ValueError(f"{text} pixels")
    return int(float(text))
