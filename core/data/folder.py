"""Image folders: class folders as ImageNet has them, or a flat folder without labels."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

import numpy as np
import PIL.Image

from core.data.decode import EXTENSIONS, decode_rgb
from core.errors import UserError


class Folder:
    """The images below `root`: one class per subfolder (nested files included), or flat and unlabelled."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.root = root
        try:
            entries = sorted(os.scandir(root), key=lambda entry: entry.name)
            os.stat(root / ".")  # a folder that may be listed but not entered
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"no folder {root}; give the data's root, e.g. folder:/data/imagenet") from None
        except OSError as error:
            raise _unreadable(f"the folder {root}", error) from None
        subfolders = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        flat = [entry.name for entry in entries if entry.is_file() and _is_image(entry.name)]
        if flat and subfolders:
            raise UserError(
                f"{root} holds images ({flat[0]}, …) beside folders ({subfolders[0]}, …); keep one of the two"
            )
        if not flat and not subfolders:
            raise UserError(f"{root} holds no images ({', '.join(EXTENSIONS)}) and no class folders")
        names: list[str] = []
        labels: list[int] = []
        for label, subfolder in enumerate(subfolders):
            found = _images_below(root / subfolder, subfolder)
            if not found:
                raise UserError(f"the class folder {root / subfolder} is empty; fill it or remove it")
            names += found
            labels += [label] * len(found)
        self.classes = tuple(subfolders)
        # One buffer instead of a million strings: forked workers share it without copying.
        self._names = np.array([os.fsencode(name) for name in names or flat])
        self._labels = np.array(labels or [-1] * len(flat), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._names)

    def image(self, index: int) -> PIL.Image.Image:
        where = self.describe(index)
        return decode_rgb(Path(where), where)

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def describe(self, index: int) -> str:
        return str(self.root / os.fsdecode(self._names[index]))

    @cache  # noqa: B019  (a data set lives as long as the process)
    def digest(self) -> str:
        """Over relative names and file sizes: cheap for a million files, and notices any usual change."""
        digest = hashlib.sha256()
        for name in self._names:
            path = self.root / os.fsdecode(name)
            try:
                size = path.stat().st_size
            except OSError as error:
                raise _unreadable(str(path), error) from None
            digest.update(bytes(name) + b"\0" + str(size).encode() + b"\n")
        return digest.hexdigest()


def split_folder(root: Path, split: str) -> Path:
    """`root/train`, `root/val` … where the root is divided so; the root itself for pre-training on a plain folder."""
    candidates = {"pretrain": ("train",), "train": ("train",), "val": ("val", "validation", "test")}[split]
    for candidate in candidates:
        if (root / candidate).is_dir():
            return root / candidate
    if split == "pretrain" or not root.is_dir():
        return root
    raise UserError(
        f"{root} has no {' or '.join(candidates)} folder; labelled evaluation needs root/train and root/val"
    )


def _unreadable(what: str, error: OSError) -> UserError:
    return UserError(f"can't read {what}: {error.strerror}; mend its permissions or the disk, or give another folder")


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _images_below(folder: Path, prefix: str) -> list[str]:
    def refuse(error: OSError) -> None:  # what can't be looked into must not silently be left out
        raise _unreadable(f"the folder {error.filename}", error) from None

    found = []
    for path, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        relative = os.path.join(prefix, os.path.relpath(path, folder)) if path != str(folder) else prefix
        found += [os.path.join(relative, name) for name in sorted(files) if _is_image(name)]
    return found
