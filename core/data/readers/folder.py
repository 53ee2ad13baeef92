"""Image folders: class folders as ImageNet has them, or any folder of images where no labels are needed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import PIL.Image

from core.data.account import Account, merged_endings
from core.data.bands import ARRAY, decode_bands
from core.data.decode import EXTENSIONS, conversions_of, decode_rgb, read_image_file
from core.data.digests import files_digest
from core.errors import BrokenImage, UserError


class Folder:
    """Images below `root`: one class per subfolder (nested files included), or unlabelled.

    Hidden files and folders (`.NAME`, `__MACOSX`) and files with other endings are skipped and counted; links to
    folders are followed.
    """

    def __init__(self, root: Path, name: str, labelled: bool = True, may_lack: bool = False, channels: int = 3) -> None:
        """`labelled`: False where labels are not needed: then images may lie beside folders, and folders be empty.
        `may_lack`: class folders may be empty (validation). `channels`: 3 for RGB; images of other numbers may be
        arrays too (core/data/bands.py). Raises `UserError` for a folder that can't be used so.
        """
        self.name = name
        self.root = root
        entries = _entries(root)
        self.channels = channels
        scan = _Scan(root, EXTENSIONS if channels == 3 else (*EXTENSIONS, ARRAY))
        subfolders = [entry.name for entry in entries if _is_folder(entry) and not is_hidden(entry.name)]
        flat = scan.files_of("", entries)
        if flat and subfolders and labelled:
            raise UserError(
                f"{root} holds images ({os.path.basename(flat[0])}, …) beside folders ({subfolders[0]}, …); keep one "
                f"of the two"
            )
        if not flat and not subfolders:
            raise UserError(f"{root} holds no images ({', '.join(EXTENSIONS)}) and no class folders")
        names, labels, empty = list(flat), [-1] * len(flat), []
        for label, subfolder in enumerate(subfolders):
            found = list(scan.below(subfolder))
            if not found:
                empty.append(subfolder)
            names += found
            labels += [-1 if flat else label] * len(found)
        if empty and labelled and not may_lack:
            raise UserError(f"the class folder {root / empty[0]} is empty; fill it or remove it")
        if not names:
            raise UserError(f"{root} holds no images ({', '.join(EXTENSIONS)}) in its folders")
        self.classes = () if flat else tuple(subfolders)
        notes = [f"{root}: {scan.links} links to folders followed"] if scan.links else []
        if empty:
            notes.append(f"{root}: {len(empty)} folders without images ({', '.join(empty[:10])})")
        if flat and subfolders:
            notes.append(f"{root}: images beside folders, so the folders are not taken as classes")
        self._account = Account(merged_endings(scan.skipped), notes=tuple(notes))
        # One buffer instead of a million strings: forked workers share it without copying.
        self._names = np.array([os.fsencode(name) for name in names])
        self._labels = np.array(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._names)

    def image(self, index: int) -> PIL.Image.Image:
        where = self.describe(index)
        if self.channels != 3:
            return decode_bands(Path(where), self.channels)  # type: ignore[return-value]
        return decode_rgb(Path(where), where)

    def stored_bytes(self, index: int) -> bytes | None:
        """File of image `index`; None for images that aren't RGB."""
        return read_image_file(Path(self.describe(index))) if self.channels == 3 else None

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def describe(self, index: int) -> str:
        return str(self.root / os.fsdecode(self._names[index]))

    @cache  # noqa: B019  (a data set lives as long as the process)
    def digest(self) -> str:
        """Over classes, names relative to the root, and contents or sizes and times (core/data/digests.py)."""
        files = ((bytes(name), self.root / os.fsdecode(name)) for name in self._names)
        return files_digest(files, os.fsencode("\n".join(self.classes)))

    def account(self) -> Account:
        """Files that were skipped, links followed, folders without images."""
        return self._account

    def conversions(self, index: int) -> tuple[str, ...]:
        """Reasons why image `index` is not used as it is stored; none for a broken one."""
        where = self.describe(index)
        if self.channels != 3:
            return ()
        try:
            return conversions_of(Path(where), where)
        except BrokenImage:
            return ()


class _Scan:
    """One walk over a folder: images in order, and counts of all other entries."""

    def __init__(self, root: Path, extensions: tuple[str, ...]) -> None:
        self.root, self.extensions = root, extensions
        self.skipped: Counter[str] = Counter()
        self.links = 0

    def below(self, subfolder: str) -> Iterator[str]:
        """Names of all images below `root/subfolder`, relative to the root: files of a folder before its folders."""
        waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(subfolder, frozenset({_identity(self.root)}))]
        while waiting:
            relative, above = waiting.pop()
            path = self.root / relative
            entries = _entries(path)
            if (identity := _identity(path)) in above:
                self.skipped["link to a folder above it"] += 1
                continue
            self.links += path.is_symlink()
            yield from self.files_of(relative, entries)
            folders = [entry.name for entry in entries if _is_folder(entry) and not is_hidden(entry.name)]
            waiting += [(os.path.join(relative, name), above | {identity}) for name in reversed(folders)]

    def files_of(self, relative: str, entries: list[os.DirEntry[str]]) -> list[str]:
        """Images among the entries of a folder; counts its other files and those of its hidden folders."""
        found = []
        for entry in entries:
            if _is_folder(entry):
                if is_hidden(entry.name) and (count := _files_below(entry)):
                    self.skipped[f"in hidden folders {entry.name}"] += count
            elif is_hidden(entry.name):
                self.skipped["hidden files"] += 1
            elif not entry.name.lower().endswith(self.extensions):
                self.skipped[other_ending(entry.name)] += 1
            else:
                found.append(os.path.join(relative, entry.name))
        return found


def is_hidden(name: str) -> bool:
    """True for files and folders that programs leave behind: `.ipynb_checkpoints`, `._a.jpg`, `__MACOSX`, …."""
    return name.startswith(".") or name == "__MACOSX"


def other_ending(name: str) -> str:
    """Reason for a file that is not an image by its name."""
    ending = os.path.splitext(name)[1].lower()
    return f"files ending in {ending}" if ending else "files without an ending"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Entries by name; `UserError` where they can't be listed: what can't be read must not silently be left out."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        os.stat(folder / ".")  # a folder that may be listed but not entered
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"no folder {folder}; give the data's root, e.g. folder:/data/imagenet") from None
    except OSError as error:
        raise UserError(
            f"can't read the folder {folder}: {error.strerror}; fix its permissions or the disk, or give another folder"
        ) from None
    return entries


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _files_below(entry: os.DirEntry[str]) -> int:
    return sum(len(files) for _, _, files in os.walk(entry.path))
