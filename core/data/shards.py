"""WebDataset tar shards, read at random through an index of their members; nothing is ever extracted."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import tarfile
import tokenize
from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import PIL.Image

from core.data.decode import EXTENSIONS, decode_rgb
from core.errors import BrokenImage, UserError
from core.files.atomic_file import write_atomically
from core.files.cache_folder import cache_folder
from core.untrusted.zip_archives import find_fault

_MAX_MEMBER = 256 * 2**20
_OPEN_FILES = 32
_LONGEST_KEY = 1000
_MOST_SHARDS = 10**6
_COLUMNS = {"offset": "i8", "size": "i8", "label": "i8", "key": "S"}


class Shards:
    """Samples `key.jpg` + `key.cls` (or `key.json` with "label") of tar files.

    Members are addressed by position and read with one `pread`, so order, sharding over ranks and resuming
    are the same plain arithmetic as for a folder. The index of a shard is cached beside the other caches.
    """

    def __init__(self, pattern: str, name: str) -> None:
        self.name = name
        self.shards = expand_shards(pattern)
        indices = [_cached_index(shard) for shard in self.shards]
        self._shard = np.concatenate([np.full(len(index["offset"]), i) for i, index in enumerate(indices)])
        self._offset = np.concatenate([index["offset"] for index in indices])
        self._size = np.concatenate([index["size"] for index in indices])
        self._labels = np.concatenate([index["label"] for index in indices])
        self._keys = np.concatenate([index["key"] for index in indices])
        if len(self._offset) == 0:
            raise UserError(f"the shards {pattern} hold no images (members like key.jpg, key.png)")
        unlabelled = self._labels < 0
        if unlabelled.any() and not unlabelled.all():
            raise UserError(f"{self.describe(int(unlabelled.argmax()))} has no .cls or .json label, others have one")
        self.classes = tuple(str(i) for i in range(int(self._labels.max()) + 1))
        self.blocks = np.flatnonzero(np.diff(self._shard, prepend=-1))
        """Position of each shard's first sample: reading stays near-sequential where the order keeps to blocks."""
        self._files: OrderedDict[tuple[int, int], int] = OrderedDict()

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
        """Over shard names and sizes, member keys and labels."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(f"{shard.name} {shard.stat().st_size}\n".encode())
        for column in (self._keys, self._labels, self._size):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()

    def _file(self, shard: int) -> int:
        key = (os.getpid(), shard)  # a forked worker opens its own
        if key not in self._files:
            self._files[key] = os.open(self.shards[shard], os.O_RDONLY)
            if len(self._files) > _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        self._files.move_to_end(key)
        return self._files[key]


def expand_shards(pattern: str) -> list[Path]:
    """`in1k-{000..127}.tar` and glob patterns -> existing files, in order. `UserError` names the first absent one."""
    texts = [pattern]
    while brace := re.search(r"\{(\d{1,9})\.\.(\d{1,9})\}", texts[0]):
        first, last = brace.groups()
        if len(texts) * (int(last) - int(first)) > _MOST_SHARDS:
            raise UserError(f"the ranges in {pattern} name more than {_MOST_SHARDS:,} shards; give a smaller one")
        numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        texts = [text[: brace.start()] + number + text[brace.end() :] for text in texts for number in numbers]
        if not texts:
            raise UserError(f"the range {brace.group()} in {pattern} is empty")
    found: list[Path] = []
    for text in texts:
        matches = sorted(glob.glob(text)) if glob.has_magic(text) else [text]
        if not matches or not os.path.isfile(matches[0]):
            raise UserError(f"no shard {text}; give e.g. webdataset:/data/in1k-train-{{000..127}}.tar")
        found += [Path(match) for match in matches]
    return found


def _cached_index(shard: Path) -> dict[str, np.ndarray]:
    stat = shard.stat()
    key = hashlib.sha256(f"1 {shard.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()
    cached = cache_folder() / "shards" / f"{key}.npz"
    if cached.is_file() and (index := _read_index(cached)) is not None:
        return index
    index = _index(shard)

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **index)

    write_atomically(cached, write)
    return index


def _read_index(cached: Path) -> dict[str, np.ndarray] | None:
    """A kept index; None for a damaged one, which is then made again."""
    if find_fault(cached):
        return None
    try:
        with np.load(cached, allow_pickle=False) as arrays:
            index = {name: arrays[name] for name in _COLUMNS}
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        EOFError,
        MemoryError,
        OverflowError,
        SyntaxError,
        tokenize.TokenError,
    ):
        return None
    sound = all(index[name].ndim == 1 and index[name].dtype.str.strip("<|").startswith(kind.rstrip("8"))
                and len(index[name]) == len(index["key"]) for name, kind in _COLUMNS.items())  # fmt: skip
    return index if sound else None


def _index(shard: Path) -> dict[str, np.ndarray]:
    offsets: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        end = shard.stat().st_size
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                # A size below zero would send the reader back, for ever.
                if member.size < 0 or member.offset_data + (member.size if member.isreg() else 0) > end:
                    raise tarfile.ReadError(f"member {member.name[:100]!r} has the impossible size {member.size}")
                if not member.isreg():
                    continue  # links and devices: nothing a data set needs
                folder, _, base = member.name.rpartition("/")
                stem, dot, extension = base.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                extension = (dot + extension).lower()
                if len(os.fsencode(key)) > _LONGEST_KEY:  # all keys are kept in columns as wide as the longest
                    raise UserError(f"{shard} has a member with a name of {len(key):,} characters; rename it")
                if extension in EXTENSIONS:
                    offsets[key] = (member.offset_data, member.size)
                elif extension in (".cls", ".json") and member.size <= 2**20:
                    content = tar.extractfile(member)
                    assert content is not None
                    labels[key] = _label(content.read(), extension, f"{shard}::{member.name}")
    except UserError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError, TypeError, IndexError, KeyError, RecursionError,
            OverflowError, MemoryError) as error:  # fmt: skip
        raise UserError(
            f"{shard} is not a readable tar file ({error}); compressed shards must be unpacked first"
        ) from None
    keys = list(offsets)
    return {
        "offset": np.array([offsets[key][0] for key in keys], dtype=np.int64),
        "size": np.array([offsets[key][1] for key in keys], dtype=np.int64),
        "label": np.array([labels.get(key, -1) for key in keys], dtype=np.int64),
        "key": np.array([os.fsencode(key) for key in keys] or [b""], dtype=np.bytes_)[: len(keys)],
    }


def _label(content: bytes, extension: str, where: str) -> int:
    try:
        label = int(content) if extension == ".cls" else json.loads(content).get("label", -1)
        if isinstance(label, bool) or not isinstance(label, int) or not -1 <= label < 10**6:
            raise ValueError(f"{label!r} is no class number")
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{where} holds no class number: {error}") from None
    return label
