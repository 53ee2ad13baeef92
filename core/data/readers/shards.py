"""WebDataset tar shards, read at random through an index of their members; nothing is ever extracted."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter, OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import PIL.Image

from core.data.account import Account, merged_endings
from core.data.base import ImageSet
from core.data.decode import conversions_of, decode_rgb
from core.data.digests import files_digest
from core.data.readers.shard_index import INVALID, cached_index
from core.data.readers.splits import Split, split_names, split_notes
from core.data.subset import noted
from core.errors import BrokenImage, UserError

_MAX_MEMBER = 256 * 2**20
_HEADER = 2**18
"""Bytes in which the header of an image is looked for first."""
_OPEN_FILES = 32
_MOST_SHARDS = 10**6
_LIST = re.compile(r"\{([^{}]*,[^{}]*)\}")
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")


class Shards:
    """Samples `key.jpg` + `key.cls` (or `key.json` with "label") of tar files.

    Members are addressed by position and read with one `pread`, so order, sharding over ranks and resuming
    are the same plain arithmetic as for a folder. The index of a shard is cached beside the other caches.
    """

    def __init__(self, pattern: str, name: str, labelled: bool = True, may_lack: bool = False) -> None:
        """`labelled`: False where labels are not needed, so that incomplete ones don't matter. `may_lack`: as of
        `find_shards`. Raises `UserError` for shards that can't be read so.
        """
        self.name = name
        self.shards, notes = find_shards(pattern, may_lack)
        indices = [cached_index(shard) for shard in self.shards]
        self._shard = np.concatenate([np.full(len(index["offset"]), i) for i, index in enumerate(indices)])
        self._offset = np.concatenate([index["offset"] for index in indices])
        self._size = np.concatenate([index["size"] for index in indices])
        self._keys = np.concatenate([index["key"] for index in indices])
        if len(self._offset) == 0:
            raise UserError(f"the shards {pattern} hold no images (members like key.jpg, key.png)")
        self._labels, self.classes, unused = self._classes(np.concatenate([i["label"] for i in indices]), labelled)
        skipped: Counter[str] = Counter()
        for index in indices:
            for reason, count in zip(index["reason"], index["count"], strict=True):
                skipped[os.fsdecode(bytes(reason))] += int(count)
        self._account = Account(merged_endings(skipped), notes=(*notes, *unused))
        self.blocks = np.flatnonzero(np.diff(self._shard, prepend=-1))
        """Position of each shard's first sample: reading stays near-sequential where the order keeps to blocks."""
        self._files: OrderedDict[tuple[int, int], int] = OrderedDict()

    def _classes(self, labels: np.ndarray, labelled: bool) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
        """Class of each sample, names of the classes, and notes. `UserError` for labels that can't be used."""
        names, inverse = np.unique(labels, return_inverse=True)
        texts = [bytes(name) for name in names]
        numbers = [int(text) if text.isdigit() else -1 for text in texts]
        invalid = [text for text in texts if text.startswith(INVALID)]
        named = [text for text in texts if text and not text.isdigit() and not text.startswith(INVALID)]
        fault = ""
        if invalid:
            shard = self.shards[int(self._shard[int((labels == invalid[0]).argmax())])]
            fault = f"{shard}::{os.fsdecode(invalid[0][1:])}"
        elif b"" in texts and len(texts) > 1:
            fault = f"{self.describe(int((labels == b'').argmax()))} has no .cls or .json label, others have one"
        elif named and len(named) < len(texts):
            fault = (
                f"{self.name} has labels of two kinds, numbers and names such as {named[0].decode(errors='replace')!r}"
            )
        if fault and labelled:
            raise UserError(f"{fault}; give all samples a class number in .cls, or a label in .json")
        if fault or texts == [b""]:
            unlabelled = (f"{self.name}: labels not used ({fault})",) if fault else ()
            return np.full(len(labels), -1, dtype=np.int64), (), unlabelled
        if named:
            return inverse.astype(np.int64), tuple(text.decode(errors="replace").strip() for text in texts), ()
        return np.array(numbers, dtype=np.int64)[inverse], tuple(map(str, range(max(numbers) + 1))), ()

    def __len__(self) -> int:
        return len(self._offset)

    def image(self, index: int) -> PIL.Image.Image:
        where = self.describe(index)
        size = int(self._size[index])
        if size > _MAX_MEMBER:
            raise BrokenImage(where, f"{size} bytes are more than {_MAX_MEMBER}")
        return decode_rgb(os.pread(self._file(int(self._shard[index])), size, int(self._offset[index])), where)

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def describe(self, index: int) -> str:
        return f"{self.shards[int(self._shard[index])]}::{os.fsdecode(self._keys[index])}"

    @cache  # noqa: B019  (a data set lives as long as the process)
    def digest(self) -> str:
        """Over names and contents of the shards (or sizes and times, core/data/digests.py), keys and labels."""
        columns = (self._keys, self._labels, self._size)
        more = b"".join(np.ascontiguousarray(column).tobytes() for column in columns) + "\n".join(self.classes).encode()
        return files_digest(((os.fsencode(shard.name), shard) for shard in self.shards), more)

    def account(self) -> Account:
        """Members that are not samples, shards that the range names and that don't exist."""
        return self._account

    def conversions(self, index: int) -> tuple[str, ...]:
        """Reasons why image `index` is not used as it is stored; none for a broken one."""
        where, size = self.describe(index), int(self._size[index])
        for length in (min(size, _HEADER), size):  # the directory of a TIFF may lie at its end
            try:
                # Not by the open files: several threads count conversions.
                with self.shards[int(self._shard[index])].open("rb") as file:
                    file.seek(int(self._offset[index]))
                    return conversions_of(file.read(length), where) if size <= _MAX_MEMBER else ()
            except (BrokenImage, OSError):
                continue
        return ()

    def _file(self, shard: int) -> int:
        key = (os.getpid(), shard)  # a forked worker opens its own
        if key not in self._files:
            self._files[key] = os.open(self.shards[shard], os.O_RDONLY)
            if len(self._files) > _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        self._files.move_to_end(key)
        return self._files[key]


def open_shards(place: str, split: Split) -> ImageSet:
    """Shards of one split, where `{split}` in `place` stands for train or val (also valid, validation, …).

    A split of fewer shards than the range names is opened, except for train. Raises `UserError` for missing shards.
    """
    labelled = split != "pretrain"
    if "{split}" not in place:
        if labelled:
            raise UserError(f"webdataset:{place} needs {{split}} in its name to tell train from val shards")
        return Shards(place, f"webdataset:{place}", labelled=False)
    patterns = {name: place.replace("{split}", name) for name in split_names(split)}
    usual = next(iter(patterns))
    name = next((name for name, pattern in patterns.items() if _has_shard(pattern)), usual)
    images = Shards(patterns[name], f"webdataset:{patterns[name]}", labelled, may_lack=split == "val")
    return noted(images, *split_notes(split, name, f"webdataset:{place}"))


def find_shards(pattern: str, may_lack: bool = False) -> tuple[list[Path], tuple[str, ...]]:
    """Existing files of `in1k-{000..127}.tar` or a glob pattern, in order, and notes.

    A file of exactly that name is taken literally, whatever characters it has. `may_lack`: the last files that a range
    names may be missing, which is noted. Raises `UserError` naming the first absent one.
    """
    if os.path.isfile(pattern):
        return [Path(pattern)], ()
    texts = _shards_of(pattern)
    found: list[Path] = []
    absent: list[str] = []
    for text in texts:
        matches = [text] if os.path.isfile(text) or not glob.has_magic(text) else sorted(glob.glob(text))
        if matches and os.path.isfile(matches[0]):
            if absent:  # a gap, not another number of shards
                break
            found += [Path(match) for match in matches]
        else:
            absent.append(text)
            if not may_lack or not found:
                break
    if absent and (not may_lack or not found or len(found) + len(absent) < len(texts)):
        raise UserError(
            f"no shard {absent[0]}; give e.g. webdataset:/data/in1k-train-{{000..127}}.tar, or * in place of numbers"
        )
    notes = [f"{pattern}: {len(found)} shards, fewer than the range names ({absent[0]} is absent)"] if absent else []
    if not absent and (beyond := _next(pattern)) and os.path.isfile(beyond):
        notes.append(f"{pattern}: shards beyond the range are not used ({beyond} exists)")
    return found, tuple(notes)


def _shards_of(pattern: str) -> list[str]:
    """Names that a pattern stands for: its ranges `{000..127}` and, unless the folder is called so, lists `{a,b}`."""
    texts = [pattern]
    while _LIST.search(texts[0]) and (
        not os.path.isdir(os.path.dirname(texts[0])) or "," in os.path.basename(texts[0])
    ):
        parts = [_LIST.split(text, maxsplit=1) for text in texts]
        texts = [before + word + after for before, words, after in parts for word in words.split(",")]
    return [name for text in texts for name in _expand(text)]


def _expand(pattern: str) -> list[str]:
    texts = [pattern]
    while ranges := [_RANGE.search(text) for text in texts if _RANGE.search(text)]:
        assert ranges[0] is not None
        first, last = ranges[0].groups()
        if len(texts) * (int(last) - int(first)) > _MOST_SHARDS:
            raise UserError(f"the ranges in {pattern} name more than {_MOST_SHARDS:,} shards; give a smaller one")
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


def _has_shard(pattern: str) -> bool:
    text = _shards_of(pattern)[0]
    return os.path.isfile(text) or (glob.has_magic(text) and bool(glob.glob(text)))
