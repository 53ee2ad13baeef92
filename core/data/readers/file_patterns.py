"""Files that one pattern names: ranges `{000..127}`, lists `{a,b}`, `*`, and `{split}` for the name of a split."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from core.data.readers.remote_files import RemoteFile, RemoteFiles, is_url
from core.data.readers.splits import Split, split_names, split_notes
from core.errors import UserError

_MOST_FILES = 10**6
_LIST = re.compile(r"\{([^{}]*,[^{}]*)\}")
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")


def pattern_of_split(kind: str, place: str, split: Split) -> tuple[str, tuple[str, ...]]:
    """`place` with the name of the split for `{split}`, the first one that has a file; and notes on the choice.

    Raises `UserError` for a labelled split without `{split}`.
    """
    if "{split}" not in place:
        if split != "pretrain":
            raise UserError(f"{kind}:{place} needs {{split}} in its name to tell train from val files")
        return place, ()
    patterns = {name: place.replace("{split}", name) for name in split_names(split)}
    name = next((name for name, pattern in patterns.items() if _has_file(pattern)), next(iter(patterns)))
    return patterns[name], split_notes(split, name, f"{kind}:{place}")


def find_files(
    pattern: str, example: str, may_lack: bool = False
) -> tuple[list[Path] | list[RemoteFile], tuple[str, ...]]:  # fmt: skip
    """Existing files of `in1k-{000..127}.tar` or a glob pattern, on disk or at URLs, in order; and notes.

    A file of exactly that name is taken literally, whatever characters it has. `example`: a correct source, for
    messages. `may_lack`: the last files that a range names may be missing, which is noted. Raises `UserError` naming
    the first absent one.
    """
    files = _files_of(pattern)
    if files.is_file(pattern):
        return [files.open(pattern)], ()
    texts = _names_of(pattern, files)
    files.look(texts)
    found: list[str] = []
    absent: list[str] = []
    for text in texts:
        matches = [text] if files.is_file(text) or not files.is_pattern(text) else files.matches(text)
        if matches and files.is_file(matches[0]):
            if absent:  # a gap, not another number of shards
                break
            found += matches
        else:
            absent.append(text)
            if not may_lack or not found:
                break
    if absent and (not may_lack or not found or len(found) + len(absent) < len(texts)):
        raise UserError(f"no file {absent[0]}; give e.g. {example}, or * in place of numbers")
    notes = [f"{pattern}: {len(found)} files, fewer than the range names ({absent[0]} is absent)"] if absent else []
    if not absent and (beyond := _next(pattern)) and files.is_file(beyond):
        notes.append(f"{pattern}: files beyond the range are not used ({beyond} exists)")
    files.look(found)
    return [files.open(name) for name in found], tuple(notes)


def _names_of(pattern: str, files: _Files) -> list[str]:
    """Names that a pattern stands for: its ranges `{000..127}` and, unless the folder is called so, lists `{a,b}`."""
    texts = [pattern]
    while _LIST.search(texts[0]) and (
        not files.is_folder(os.path.dirname(texts[0])) or "," in os.path.basename(texts[0])
    ):
        parts = [_LIST.split(text, maxsplit=1) for text in texts]
        texts = [before + word + after for before, words, after in parts for word in words.split(",")]
    return [name for text in texts for name in _expand(text)]


def _expand(pattern: str) -> list[str]:
    texts = [pattern]
    while ranges := [_RANGE.search(text) for text in texts if _RANGE.search(text)]:
        assert ranges[0] is not None
        first, last = ranges[0].groups()
        if len(texts) * (int(last) - int(first)) > _MOST_FILES:
            raise UserError(f"the ranges in {pattern} name more than {_MOST_FILES:,} files; give a smaller one")
        numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        if not numbers:
            raise UserError(f"the range {ranges[0].group()} in {pattern} is empty")
        texts = [_RANGE.sub(number, text, count=1) for text in texts for number in numbers]
    return texts


def _next(pattern: str) -> str:
    """Name that follows the last one of a pattern with a single range; empty for other patterns."""
    if len(ranges := list(_RANGE.finditer(pattern))) != 1:
        return ""
    first, last = ranges[0].groups()
    return pattern[: ranges[0].start()] + str(int(last) + 1).zfill(len(first)) + pattern[ranges[0].end() :]


def _has_file(pattern: str) -> bool:
    files = _files_of(pattern)
    text = _names_of(pattern, files)[0]
    return files.is_file(text) or (files.is_pattern(text) and bool(files.matches(text)))


class _Files(Protocol):
    """Where files are looked for: a disk, or a server."""

    def look(self, names: Sequence[str]) -> None: ...

    def is_file(self, name: str) -> bool: ...

    def is_folder(self, name: str) -> bool: ...

    def is_pattern(self, name: str) -> bool: ...

    def matches(self, name: str) -> list[str]: ...

    def open(self, name: str) -> Any: ...


class _Disk:
    def look(self, names: Sequence[str]) -> None:
        """Nothing: each is looked for when it is asked for."""

    def is_file(self, name: str) -> bool:
        return os.path.isfile(name)

    def is_folder(self, name: str) -> bool:
        return os.path.isdir(name)

    def is_pattern(self, name: str) -> bool:
        return glob.has_magic(name)

    def matches(self, name: str) -> list[str]:
        return sorted(glob.glob(name))

    def open(self, name: str) -> Path:
        return Path(name)


def _files_of(pattern: str) -> _Files:
    return RemoteFiles() if is_url(pattern) else _Disk()
