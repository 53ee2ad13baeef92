"""Files of one folder by name, so that images find their labels whatever the file endings."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

from core.data.decode import EXTENSIONS
from core.data.readers.folder import is_hidden, other_ending
from core.errors import UserError

LABEL_ENDINGS = (".png", ".bmp", ".tif", ".tiff")
"""Endings of label files: lossless formats; JPEG would change class numbers."""


class Folder:
    """Image files below a folder by name: relative path without `tag` and ending, in the order of their paths."""

    def __init__(self, path: Path, tag: str = "", endings: Collection[str] = EXTENSIONS) -> None:
        """Lists the folder. `tag`: end of the names, before the ending. Raises `UserError` for two files of one name.

        Hidden files, files with other endings and files without the tag are counted in `skipped`, links and files
        matched in another case in `notes`.
        """
        self.path, self.tag = path, tag
        self.skipped, self.notes = Counter[str](), Counter[str]()
        self._files: dict[str, Path] = {}
        for file in sorted(_files(path, self.skipped, self.notes)):
            name, ending = os.path.splitext(file)
            if ending.lower() not in endings:
                self.skipped[other_ending(file)] += 1
            elif not name.endswith(tag):
                self.skipped[f"name without {tag}"] += 1
            elif (name := name.removesuffix(tag)) in self._files:
                raise UserError(f"{self._files[name]} and {path / file} have the same name; remove or rename one")
            else:
                self._files[name] = path / file
        self._folded = Counter(name.casefold() for name in self._files)
        self._by_folded = {name.casefold(): name for name in self._files}

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def find(self, name: str) -> Path | None:
        """File of this name, or the only one that differs in upper and lower case, counted in `notes`."""
        if name in self._files:
            return self._files[name]
        folded = name.casefold()
        if self._folded[folded] != 1:
            return None
        self.notes["matched although upper and lower case differ"] += 1
        return self._files[self._by_folded[folded]]


def _files(root: Path, skipped: Counter[str], notes: Counter[str]) -> Iterator[str]:
    """Paths below `root`, relative and with `/`; links to folders are followed once, hidden files are skipped."""
    seen: set[str] = set()
    for above, folders, files in os.walk(root, followlinks=True):
        if above != str(root) and os.path.islink(above):
            notes["links to folders"] += 1
        real = os.path.realpath(above)
        if real in seen:
            skipped["link to a folder that was already read"] += 1
            folders.clear()
            continue
        seen.add(real)
        for name in filter(is_hidden, folders):
            if count := sum(len(inside) for _, _, inside in os.walk(Path(above) / name)):
                skipped[f"in hidden folders {name}"] += count
        folders[:] = [name for name in folders if not is_hidden(name)]
        for name in files:
            if is_hidden(name):
                skipped["hidden files"] += 1
            else:
                yield (Path(above) / name).relative_to(root).as_posix()
