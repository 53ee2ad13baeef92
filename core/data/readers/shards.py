"""WebDataset tar shards, read at random through an index of their members; nothing is ever extracted."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import PIL.Image

from core.data.account import Account, merged_endings
from core.data.base import ImageSet
from core.data.decode import decode_rgb
from core.data.digests import files_digest
from core.data.readers.file_patterns import find_files, pattern_of_split
from core.data.readers.remote_files import RemoteFile, read_ahead
from core.data.readers.shard_index import INVALID, MAX_MEMBER, Index, cached_index, conversions_in
from core.data.readers.splits import Split
from core.data.subset import noted
from core.errors import BrokenImage, UserError

_OPEN_FILES = 32
_FETCHED_AT_ONCE = 8
_LOOKED_AT = 4096
"""Images of many that are looked at to see which shards they lie in."""
EXAMPLE = "webdataset:/data/in1k-{split}-{000..127}.tar"


class Shards:
    """Samples `key.jpg` + `key.cls` (or `key.json` with "label") of tar files.

    Members are addressed by position and read with one `pread`, so order, sharding over ranks and resuming
    are the same plain arithmetic as for a folder. The index of a shard is cached beside the other caches.
    """

    def __init__(self, pattern: str, name: str, labelled: bool = True, may_lack: bool = False) -> None:
        """`labelled`: False where labels are not needed, so that incomplete ones don't matter. `may_lack`: as of
        `find_files`. Raises `UserError` for shards that can't be read so.
        """
        self.name = name
        found, notes = find_files(pattern, EXAMPLE, may_lack)
        self.shards: list[Path | RemoteFile] = list(found)
        indices = _indices(self.shards)
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
        # Shards at URLs are read once for all that is asked of them.
        self._converted = np.concatenate([i["converted"] for i in indices]) if "converted" in indices[0] else None
        self._contents = [bytes.fromhex(os.fsdecode(bytes(i["sha256"][0]))) for i in indices if "sha256" in i]
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
        if (data := self.stored_bytes(index)) is None:
            raise BrokenImage(where, f"{self._size[index]} bytes are more than {MAX_MEMBER}")
        return decode_rgb(data, where)

    def stored_bytes(self, index: int) -> bytes | None:
        """Member of image `index`; None for one larger than `MAX_MEMBER`."""
        size, offset = int(self._size[index]), int(self._offset[index])
        return os.pread(self._file(int(self._shard[index])), size, offset) if size <= MAX_MEMBER else None

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def describe(self, index: int) -> str:
        return f"{self.shards[int(self._shard[index])]}::{os.fsdecode(self._keys[index])}"

    @cache  # noqa: B019  (a data set lives as long as the process)
    def digest(self) -> str:
        """Over names and contents of the shards (or sizes and times, core/data/digests.py), keys and labels."""
        columns = (self._keys, self._labels, self._size)
        more = b"".join(np.ascontiguousarray(column).tobytes() for column in columns) + "\n".join(self.classes).encode()
        if self._converted is None:
            shards = (shard for shard in self.shards if isinstance(shard, Path))
            return files_digest(((os.fsencode(shard.name), shard) for shard in shards), more)
        digest = hashlib.sha256(hashlib.sha256(more).digest())  # as `files_digest` of copies
        for shard, content in zip(self.shards, self._contents, strict=True):
            digest.update(os.fsencode(shard.name) + b"\0" + content + b"\n")
        return f"{digest.hexdigest()}:content"

    def account(self) -> Account:
        """Members that are not samples, shards that the range names and that don't exist."""
        return self._account

    def conversions(self, index: int) -> tuple[str, ...]:
        """Reasons why image `index` is not used as it is stored; none for a broken one."""
        if self._converted is not None:
            return tuple(os.fsdecode(bytes(self._converted[index])).splitlines())
        shard = self.shards[int(self._shard[index])]
        assert isinstance(shard, Path)
        # Not by the open files: several threads count conversions.
        return conversions_in(shard, int(self._offset[index]), int(self._size[index]), self.describe(index))

    def read_ahead(self, positions: np.ndarray) -> None:
        """Has shards at URLs fetched in the background in which these images lie, in this order."""
        if self._converted is None or not len(positions):
            return
        used = self._shard[positions[:: max(1, len(positions) // _LOOKED_AT)]]
        shards, first = np.unique(used, return_index=True)
        read_ahead([self.shards[shard] for shard in shards[np.argsort(first)].tolist()])

    def _file(self, shard: int) -> int:
        key = (os.getpid(), shard)  # a forked worker opens its own
        if key not in self._files:
            self._files[key] = _open(self.shards[shard])
            if len(self._files) > _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        self._files.move_to_end(key)
        return self._files[key]


def _indices(shards: Sequence[Path | RemoteFile]) -> list[Index]:
    if isinstance(shards[0], Path):
        return [cached_index(shard) for shard in shards]
    from tqdm import tqdm

    with ThreadPoolExecutor(_FETCHED_AT_ONCE) as threads:
        return list(tqdm(threads.map(cached_index, shards), "index of shards", len(shards), leave=False, delay=5))


def _open(shard: Path | RemoteFile) -> int:
    """Descriptor of a shard, or of its copy, which may be removed afterwards."""
    if isinstance(shard, Path):
        return os.open(shard, os.O_RDONLY)
    with shard.local() as path:
        return os.open(path, os.O_RDONLY)


def open_shards(place: str, split: Split) -> ImageSet:
    """Shards of one split, where `{split}` in `place` stands for train or val (also valid, validation, …).

    A split of fewer shards than the range names is opened, except for train. Raises `UserError` for missing shards.
    """
    pattern, notes = pattern_of_split("webdataset", place, split)
    images = Shards(pattern, f"webdataset:{pattern}", labelled=split != "pretrain", may_lack=split == "val")
    return noted(images, *notes)
