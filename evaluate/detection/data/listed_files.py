"""Files that an annotation file lists, found in its image folder although labelling tools write names in many ways."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from core.data.broken import BrokenImages
from core.data.decode import EXTENSIONS
from core.data.readers.folder import is_hidden
from core.errors import UserError

ELSEWHERE = "images: listed in another folder, found by the end of the path"
SPELLED = "images: listed with another spelling of the path (\\, ./, upper and lower case, Unicode form)"


@dataclass(frozen=True)
class Found:
    """Outcome for a list of names."""

    paths: dict[str, str]
    """Listed name -> path of the file, relative to the folder."""
    missing: list[str]
    """A message for each name without a file."""
    converted: Counter[str]
    """Names that don't stand there as they are listed, by reason."""
    unlisted: int
    """Image files below the folder that are not listed."""


def find_files(folder: Path, names: Iterable[str], share: float) -> Found:
    """Files below `folder` for the listed `names`.

    A name is first taken literally. Else `\\` counts as `/`, another case or Unicode form of the only such file is
    accepted, and of a path that leads elsewhere (an absolute one, of another machine) the longest end that exists here.
    Raises `UserError` for a missing folder, a name that leads out of it, two names for one file, and if more than
    `share` of the files are missing.
    """
    names = list(names)
    if not folder.is_dir():
        raise UserError(f"can't read the image folder {folder} (no such folder); --data names its parent")
    files = _Files(folder)
    converted: Counter[str] = Counter()
    paths: dict[str, str] = {}
    missing = BrokenImages(len(names), share)
    owner: dict[str, str] = {}
    for name in dict.fromkeys(names):
        path, reason = files.find(name)
        if path is None:
            if PurePath(name).is_absolute() or ".." in re.split(r"[/\\]", name):
                raise UserError(f"the image {name!r} lies outside of its folder {folder}; fix the list")
            missing.add([f"{folder / name}: listed, but there is no such file"])
            continue
        if path in owner:
            raise UserError(f"the images {owner[path]!r} and {name!r} are one file, {folder / path}; fix the list")
        paths[name], owner[path] = path, name
        if reason:
            converted[reason] += 1
    return Found(paths, missing.names, converted, files.images - sum(map(files.is_image, owner)))


class _Files:
    """All files below a folder, links to folders followed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: set[str] = set()
        self.images = 0
        self._folded: dict[str, list[str]] | None = None
        seen: set[str] = set()
        for above, folders, files in os.walk(folder, followlinks=True):
            if (real := os.path.realpath(above)) in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            below = "" if above == str(folder) else os.path.relpath(above, folder) + "/"
            self.names.update(below + name for name in files)
        self.images = sum(map(self.is_image, self.names))

    def is_image(self, name: str) -> bool:
        return name.lower().endswith(EXTENSIONS) and not is_hidden(os.path.basename(name))

    def find(self, name: str) -> tuple[str | None, str]:
        """Path of the file and the reason why it isn't the name itself; no path for no file or several."""
        if name in self.names:
            return name, ""
        parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
        if not parts or ".." in parts:
            return None, ""
        for start in range(len(parts)):
            found = self._spelled("/".join(parts[start:]))
            if found is not None:
                return found, ELSEWHERE if start else SPELLED
        return None, ""

    def _spelled(self, path: str) -> str | None:
        """The file of this path, or the only one that differs in case or Unicode form."""
        if path in self.names:
            return path
        if self._folded is None:
            self._folded = {}
            for name in sorted(self.names):
                self._folded.setdefault(_fold(name), []).append(name)
        found = self._folded.get(_fold(path), [])
        return found[0] if len(found) == 1 else None


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
