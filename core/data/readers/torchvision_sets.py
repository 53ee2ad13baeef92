"""Transfer sets that torchvision reads from disk, behind the one interface: CIFAR, Flowers, Pets, Food, Aircraft, ….

torchvision reads lists and archives; images of files are decoded here, so that broken ones are named like all others.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image

from core.data.account import Account, merged_endings
from core.data.decode import EXTENSIONS, conversions_of, decode_rgb, read_image_file
from core.data.digests import files_digest
from core.data.readers.cifar_superclasses import SUPERCLASSES, superclass_of
from core.data.readers.folder import is_hidden, other_ending
from core.errors import BrokenImage, UserError
from core.untrusted.matlab_files import check_unpacked_size

Metric = Literal["top1", "mean_per_class"]


@dataclass(frozen=True)
class TransferSet:
    """torchvision's name and arguments of a set, and its metric."""

    loader: str
    """torchvision's class."""
    train: tuple[dict[str, Any], ...]
    """Arguments of the parts that are trained on; several are joined."""
    val: tuple[dict[str, Any], ...]
    """Arguments of the parts that are measured on; none: the set has no division, `train_per_class` makes one."""
    metric: Metric = "top1"
    """The accuracy that is usual for the set: over images, or the mean over classes (SimCLR, arXiv 2002.05709, B.8)."""
    train_per_class: float = 0.0
    """Without a published division: this many training images of each class (below 1: this share of them)."""
    pretrain: tuple[dict[str, Any], ...] = ()
    """Arguments of the parts to pre-train on, labelled or not; none: those that are trained on."""
    superclasses: bool = False
    """True for the 20 superclasses of CIFAR-100 as classes."""


def _parts(key: str, *values: Any) -> tuple[dict[str, Any], ...]:
    return tuple({key: value} for value in values)


_UNCHECKED = frozenset({"FGVCAircraft", "StanfordCars"})
"""torchvision unpacks what it fetches for the first without comparing it with a digest, and can't fetch the second."""
_LARGEST_LIST = 64 * 2**20
"""Bytes that a list of images and labels may unpack to; those of Stanford Cars have about 1 MB."""

SETS = {
    "cifar10": TransferSet("CIFAR10", _parts("train", True), _parts("train", False)),
    "cifar100": TransferSet("CIFAR100", _parts("train", True), _parts("train", False)),
    "cifar100-20": TransferSet("CIFAR100", _parts("train", True), _parts("train", False), superclasses=True),
    "flowers102": TransferSet("Flowers102", _parts("split", "train", "val"), _parts("split", "test"), "mean_per_class"),
    "pets": TransferSet("OxfordIIITPet", _parts("split", "trainval"), _parts("split", "test"), "mean_per_class"),
    "food101": TransferSet("Food101", _parts("split", "train"), _parts("split", "test")),
    "aircraft": TransferSet("FGVCAircraft", _parts("split", "trainval"), _parts("split", "test"), "mean_per_class"),
    "cars": TransferSet("StanfordCars", _parts("split", "train"), _parts("split", "test")),
    "dtd": TransferSet("DTD", _parts("split", "train", "val"), _parts("split", "test")),
    "stl10": TransferSet(
        "STL10", _parts("split", "train"), _parts("split", "test"), pretrain=_parts("split", "train+unlabeled")
    ),
    "sun397": TransferSet("SUN397", ({},), (), "top1", 50),
    "caltech101": TransferSet("Caltech101", ({},), (), "mean_per_class", 30),
    "eurosat": TransferSet("EuroSAT", ({},), (), "top1", 0.8),
}
"""Names as in `cifar10:/data`, where /data is torchvision's root."""


class TorchvisionSet:
    """One split, an `ImageSet`. Sets without a published division are divided by a fixed draw, which the name says."""

    def __init__(self, kind: str, root: Path, split: str) -> None:
        """`split`: train, val (the published test part, except where the set has none) or pretrain. `UserError` where
        the files are not there as torchvision wants them."""
        known = SETS[kind]
        parts = {"val": known.val, "pretrain": known.pretrain}.get(split, ()) or known.train
        if split == "pretrain":
            split = "train+unlabelled" if known.pretrain else "train"
        loaded = [_load(kind, root, arguments) for arguments in parts]
        self._root = root
        self._images: list[Any] = [image for part in loaded for image in _images(part)]
        self._labels = np.concatenate([_labels(part) for part in loaded])
        self._refuse_outsiders()
        if self._images and isinstance(self._images[0], Path) and not known.val:  # listed as the disk has them
            order = sorted(range(len(self._images)), key=lambda index: str(self._images[index]))
            self._images, self._labels = [self._images[index] for index in order], self._labels[order]
        names = getattr(loaded[0], "classes", None) or getattr(loaded[0], "categories", None)
        count = len(names) if names else int(self._labels.max()) + 1
        self.classes = tuple(map(str, names)) if names else tuple(str(number) for number in range(count))
        if known.superclasses:
            self._labels, self.classes = superclass_of(self.classes)[self._labels], tuple(SUPERCLASSES)
        self.name = f"{kind}:{split}"
        self._skip_hidden()
        self._account = Account() if known.val else self._unlisted()
        if not known.val:
            self._divide(known.train_per_class, split == "train")

    def _refuse_outsiders(self) -> None:
        inside = os.path.join(os.path.abspath(self._root), "")
        for image in self._images:
            if isinstance(image, Path) and not os.path.abspath(image).startswith(inside):
                raise UserError(f"a list below {self._root} names {image}, which lies outside of it; fetch it again")

    def _skip_hidden(self) -> None:
        """Drops images in hidden folders and the classes that torchvision makes of such folders, both counted below."""
        kept = [index for index, image in enumerate(self._images) if not self._is_hidden(image)]
        shown = [label for label, name in enumerate(self.classes) if not is_hidden(name)]
        if len(kept) == len(self._images) and len(shown) == len(self.classes):
            return
        number = {label: new for new, label in enumerate(shown)}
        self._images = [self._images[index] for index in kept]
        self._labels = np.array([number[int(self._labels[index])] for index in kept], dtype=np.int64)
        self.classes = tuple(self.classes[label] for label in shown)

    def _is_hidden(self, image: Any) -> bool:
        return isinstance(image, Path) and any(map(is_hidden, os.path.relpath(image, self._root).split(os.sep)))

    def _unlisted(self) -> Account:
        """Files beside the images of a set that has no lists, where torchvision takes what it finds."""
        used = {os.path.abspath(image) for image in self._images if isinstance(image, Path)}
        skipped: Counter[str] = Counter()
        for folder, _, files in os.walk(os.path.commonpath([os.path.dirname(path) for path in used])) if used else ():
            for name in files:
                path = os.path.join(folder, name)
                if os.path.abspath(path) in used:
                    continue
                image = name.lower().endswith(EXTENSIONS)
                hidden = self._is_hidden(Path(path))
                skipped["hidden" if hidden else "not listed by torchvision" if image else other_ending(name)] += 1
        return Account(merged_endings(skipped))

    def _divide(self, per_class: float, train: bool) -> None:
        order = np.random.default_rng(0).permutation(len(self._labels))
        chosen = []
        for label in range(len(self.classes)):
            members = order[self._labels[order] == label]
            cut = int(per_class) if per_class >= 1 else round(per_class * len(members))
            if not 0 < cut < len(members):
                raise UserError(
                    f"class {self.classes[label]} of {self.name} has {len(members)} images, too few to take {cut} for "
                    f"training; complete the set"
                )
            chosen.append(members[:cut] if train else members[cut:])
        kept = np.sort(np.concatenate(chosen))
        self._images, self._labels = [self._images[index] for index in kept], self._labels[kept]
        taken = f"{per_class:g} per class" if per_class >= 1 else f"{100 * per_class:g} % of each class"
        self.name += f" (no published division; {taken} train, fixed draw)"

    def __len__(self) -> int:
        return len(self._labels)

    def image(self, index: int) -> PIL.Image.Image:
        """Image `index`, RGB."""
        image = self._images[index]
        if isinstance(image, Path):
            return decode_rgb(image, str(image))
        return PIL.Image.fromarray(image).convert("RGB")

    def stored_bytes(self, index: int) -> bytes | None:
        """File of image `index`; None for sets that keep their pixels in memory."""
        image = self._images[index]
        return read_image_file(image) if isinstance(image, Path) else None

    def label(self, index: int) -> int:
        """Class of image `index`."""
        return int(self._labels[index])

    def describe(self, index: int) -> str:
        """The file, or `cifar10:train#index` for sets that keep many images in one file."""
        image = self._images[index]
        return str(image) if isinstance(image, Path) else f"{self.name}#{index}"

    @cache  # noqa: B019  (a data set lives as long as the process)
    def digest(self) -> str:
        """Over class names, labels, and the pixels themselves or the files (core/data/digests.py)."""
        more = "\n".join(self.classes).encode() + self._labels.astype("<i8").tobytes()
        if self._images and isinstance(self._images[0], Path):
            return files_digest(((os.fsencode(os.path.relpath(path, self._root)), path) for path in self._images), more)
        digest = hashlib.sha256(more)
        for image in self._images:
            digest.update(np.ascontiguousarray(image).data)
        return digest.hexdigest()

    def account(self) -> Account:
        """Files that torchvision doesn't list; of sets without lists alone."""
        return self._account

    def conversions(self, index: int) -> tuple[str, ...]:
        """Reasons why image `index` is not used as it is stored; none for a broken one."""
        image = self._images[index]
        try:
            return conversions_of(image, str(image)) if isinstance(image, Path) else ()
        except BrokenImage:
            return ()


def download(kind: str, root: Path) -> None:
    """Lets torchvision fetch the set into `root`; only called where the user asks for it.

    Raises `UserError` for sets whose archives torchvision would unpack without comparing them with a digest.
    """
    if SETS[kind].loader in _UNCHECKED:
        raise UserError(
            f"torchvision has no digest to check {kind}'s archive by, so it isn't fetched; fetch it and unpack it "
            f"below {root} as torchvision's {SETS[kind].loader} wants it"
        )
    for arguments in (*SETS[kind].train, *SETS[kind].val):
        _load(kind, root, {**arguments, "download": True})


def _load(kind: str, root: Path, arguments: dict[str, Any]) -> Any:
    from torchvision import datasets

    if not root.is_dir():
        raise UserError(f"no folder {root}; {kind} needs torchvision's root, e.g. {kind}:/data")
    try:
        for packed in sorted((root / "stanford_cars").rglob("*.mat")) if kind == "cars" else ():
            check_unpacked_size(packed, _LARGEST_LIST)
        return getattr(datasets, SETS[kind].loader)(root, **arguments)
    except UserError:
        raise
    except Exception as error:  # whatever its readers of lists, MATLAB files and JSON let escape
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(" You can use download")[0].rstrip(".")
        raise UserError(
            f"torchvision can't read {kind} below {root} ({reason}); put the files there as torchvision's "
            f"{SETS[kind].loader} wants them, or fetch them with evaluate/transfer_sets.py --download"
        ) from None


def _images(part: Any) -> list[Any]:
    """Paths, or uint8 arrays [H, W, 3]."""
    for attribute in ("_image_files", "_images"):
        if hasattr(part, attribute):
            return [Path(path) for path in getattr(part, attribute)]
    for attribute in ("_samples", "samples"):
        if hasattr(part, attribute):
            return [Path(path) for path, _ in getattr(part, attribute)]
    if hasattr(part, "categories"):  # Caltech-101 numbers its files
        folder = Path(part.root) / "101_ObjectCategories"
        return [
            folder / part.categories[label] / f"image_{number:04d}.jpg"
            for label, number in zip(part.y, part.index, strict=True)
        ]
    data = part.data
    return list(data.transpose(0, 2, 3, 1) if data.shape[1] == 3 else data)  # STL-10 keeps channels first


def _labels(part: Any) -> np.ndarray:
    for attribute in ("_labels", "targets", "labels", "y"):
        if hasattr(part, attribute):
            return np.asarray(getattr(part, attribute), dtype=np.int64)
    return np.array([label for _, label in part._samples], dtype=np.int64)
