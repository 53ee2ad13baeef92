"""Index of a tar shard: where its images lie, their labels, and what is not a sample, cached between runs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core.data.bands import BAD_ARRAY
from core.data.decode import EXTENSIONS, conversions_of
from core.data.readers.folder import is_hidden, other_ending
from core.data.readers.remote_files import RemoteFile
from core.errors import BrokenImage, UserError
from core.files.atomic_file import file_digest, write_atomically
from core.files.cache_folder import cache_folder
from core.untrusted.zip_archives import find_fault

VERSION = 4
"""Version of the cached files, raised with every change of their content."""
INVALID = b"!"
"""First byte of a label that can't be used; the reason follows."""
MAX_MEMBER = 256 * 2**20
"""Bytes of an image; a larger one counts as broken."""
_HEADER = 2**18
"""Bytes in which the header of an image is looked for first."""
_LONGEST_KEY = 1000
_LARGEST_LABEL_FILE = 2**20
_LONGEST_LABEL = 200
_COLUMNS = {"offset": "i8", "size": "i8", "label": "S", "key": "S"}
_COUNTS = {"reason": "S", "count": "i8"}
_LOCAL = (_COLUMNS, _COUNTS)
_REMOTE = ({**_COLUMNS, "converted": "S"}, _COUNTS, {"sha256": "S"})
"""Columns of equal length, with their types."""
Index = dict[str, np.ndarray]


class _Member(NamedTuple):
    stem: str
    """Name without the last ending."""
    ending: str
    """Last ending, in lower case, with its dot."""
    offset: int
    size: int
    label: bytes
    """Label in a .cls or .json member; empty where it has none."""


def cached_index(shard: Path | RemoteFile) -> Index:
    """Columns `offset`, `size`, `label`, `key` with one row per image, and `reason`, `count` of skipped members.

    `label`: a class number as text, a class name, empty, or `INVALID` and why. A shard at a URL is fetched, and has the
    column `converted`, one line for each reason why the image is not used as it is stored, and `sha256` of the shard.
    Raises `UserError` for a file that is not a readable, uncompressed tar file.
    """
    if isinstance(shard, RemoteFile):
        identity = f"{VERSION} {shard.url} {shard.size} {shard.state}"
    else:
        stat = shard.stat()
        identity = f"{VERSION} {shard.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    key = hashlib.sha256(identity.encode()).hexdigest()
    cached = cache_folder() / "shards" / f"{key}.npz"
    parts = _LOCAL if isinstance(shard, Path) else _REMOTE
    if cached.is_file() and (index := _read_index(cached, parts)) is not None:
        return index
    index = _index(shard, str(shard)) if isinstance(shard, Path) else _remote_index(shard)

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **index)

    write_atomically(cached, write)
    return index


def conversions_in(shard: Path, offset: int, size: int, where: str) -> tuple[str, ...]:
    """Reasons why the image at `offset` of a tar file is not used as it is stored; none for a broken one."""
    for length in (min(size, _HEADER), size):  # the directory of a TIFF may lie at its end
        try:
            with shard.open("rb") as file:
                file.seek(offset)
                return conversions_of(file.read(length), where) if size <= MAX_MEMBER else ()
        except (BrokenImage, OSError):
            continue
    return ()


def _remote_index(shard: RemoteFile) -> Index:
    with shard.local() as local:
        index = _index(local, shard.url)
        rows = zip(index["offset"].tolist(), index["size"].tolist(), strict=True)
        reasons = [conversions_in(local, offset, size, shard.url) for offset, size in rows]
        converted = _texts(["\n".join(each).encode() for each in reasons])
        return {**index, "converted": converted, "sha256": _texts([file_digest(local).encode()])}


def _read_index(cached: Path, parts: tuple[dict[str, str], ...]) -> Index | None:
    """A cached index; None for a damaged one, which is then written again."""
    if find_fault(cached):
        return None
    try:
        with np.load(cached, allow_pickle=False) as arrays:
            index = {name: arrays[name] for columns in parts for name in columns}
    except BAD_ARRAY:
        return None
    sound = all(
        index[name].ndim == 1
        and index[name].dtype.str.strip("<|").startswith(kind.rstrip("8"))
        and len(index[name]) == len(index[next(iter(columns))])
        for columns in parts
        for name, kind in columns.items()
    )
    return index if sound else None


def _index(shard: Path, named: str) -> Index:
    """Index of a local tar file; `named`: what messages call it."""
    skipped: Counter[str] = Counter()
    groups: defaultdict[str, dict[str, _Member]] = defaultdict(dict)
    try:
        end = shard.stat().st_size
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                # A size below zero would send the reader back, for ever.
                if member.size < 0 or member.offset_data + (member.size if member.isreg() else 0) > end:
                    raise tarfile.ReadError(f"member {member.name[:100]!r} has the impossible size {member.size}")
                if not member.isreg():
                    if not member.isdir():
                        skipped["links and devices"] += 1
                    continue
                if member.issparse():
                    skipped["sparse members"] += 1
                    continue
                if any(is_hidden(part) for part in member.name.split("/") if part not in (".", "..")):
                    skipped["hidden members"] += 1
                    continue
                stem, ending = os.path.splitext(member.name)
                if len(os.fsencode(stem)) > _LONGEST_KEY:  # all keys are kept in columns as wide as the longest
                    raise UserError(f"{named} has a member with a name of {len(stem):,} characters; rename it")
                label = b""
                if ending.lower() in (".cls", ".json") and member.size <= _LARGEST_LABEL_FILE:
                    content = tar.extractfile(member)
                    assert content is not None
                    label = _label(content.read(), ending.lower(), member.name)
                folder, slash, base = member.name.rpartition("/")
                group = groups[folder + slash + base.partition(".")[0]]
                skipped["members of a repeated name: the last is used"] += member.name in group
                group[member.name] = _Member(stem, ending.lower(), member.offset_data, member.size, label)
    except UserError:
        raise
    except (tarfile.TarError, OSError, EOFError, ValueError, TypeError, IndexError, KeyError, RecursionError,
            OverflowError, MemoryError) as error:  # fmt: skip
        raise UserError(
            f"{named} is not a readable tar file ({error}); compressed shards must be unpacked first"
        ) from None
    samples = [sample for key, group in groups.items() for sample in _samples(key, group.values(), skipped)]
    reasons = [(reason, count) for reason, count in sorted(skipped.items()) if count]
    return {
        "offset": np.array([image.offset for image, _ in samples], dtype=np.int64),
        "size": np.array([image.size for image, _ in samples], dtype=np.int64),
        "label": _texts([label for _, label in samples]),
        "key": _texts([os.fsencode(image.stem) for image, _ in samples]),
        "reason": _texts([os.fsencode(reason) for reason, _ in reasons]),
        "count": np.array([count for _, count in reasons], dtype=np.int64),
    }


def _samples(key: str, members: Iterable[_Member], skipped: Counter[str]) -> list[tuple[_Member, bytes]]:
    """Images of the members whose names are equal up to the first dot, with their labels; counts the others.

    By WebDataset's rule such members are one sample, `key.jpg` its image and `key.seg.png` something else. Without an
    image `key.jpg`, or with a label file of its own (`img7.v2.png`, `img7.v2.cls`), the dot belongs to the name.
    """
    members = list(members)
    images = [member for member in members if member.ending in EXTENSIONS]
    labels: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
    for member in members:
        if member.ending in (".cls", ".json"):
            labels[member.stem][member.ending] = member.label
        elif member.ending not in EXTENSIONS:
            skipped[other_ending(f"x{member.ending}").replace("files", "members")] += 1
    whole = any(image.stem == key for image in images)
    chosen: dict[str, _Member] = {}
    for image in images:
        own = image.stem == key or not whole or any(labels.get(image.stem, {}).values())
        if not own or image.stem in chosen:
            skipped["further images of a sample: the first is used"] += 1
        else:
            chosen[image.stem] = image
    found = []
    for image in chosen.values():
        source = image.stem if labels.get(image.stem) or len(chosen) > 1 else key
        found.append((image, _label_of(labels.pop(source, {}), skipped)))
    skipped["labels without an image"] += sum(map(len, labels.values()))
    return found


def _label_of(given: dict[str, bytes], skipped: Counter[str]) -> bytes:
    """Label of a sample: that of .cls; that of .json where there is no .cls."""
    if ".cls" in given and ".json" in given:
        skipped[".json beside .cls: the label of .cls is used"] += 1
    elif given.get(".json") == b"":
        skipped[".json without a label"] += 1
    return given[".cls"] if ".cls" in given else given.get(".json", b"")


def _label(content: bytes, ending: str, name: str) -> bytes:
    try:
        label = _value_of_cls(content) if ending == ".cls" else json.loads(content).get("label", -1)
        if isinstance(label, str) and label.strip().isascii() and label.strip().isdigit():
            label = int(label)
        if isinstance(label, str) and 0 < len(label.strip()) <= _LONGEST_LABEL and label.strip().isprintable():
            name_of_class = label.strip()  # with a space where it could be taken for an invalid one
            return f"{' ' * name_of_class.startswith(INVALID.decode())}{name_of_class}".encode()
        if isinstance(label, bool) or not isinstance(label, int) or not -1 <= label < 10**6:
            raise ValueError(f"{label!r} is not a class number")
    except (ValueError, AttributeError, RecursionError, *BAD_ARRAY) as error:
        text = f"{name} holds no class number: {' '.join(str(error).split())}"[:_LONGEST_LABEL]
        return INVALID + text.encode("utf-8", "backslashreplace")
    return b"" if label < 0 else str(label).encode()


def _value_of_cls(content: bytes) -> Any:
    """Content of a .cls member: a number or a name as text, as JSON (bare or under "label"), or a number as .npy.

    Raises `ValueError` for anything else.
    """
    if content.startswith(b"\x93NUMPY"):
        array = np.load(io.BytesIO(content), allow_pickle=False)
        if array.size != 1 or array.dtype.kind not in "iu":
            raise ValueError(f"an array of {array.size} values of type {array.dtype}")
        return int(array.reshape(()))
    text = content.decode("utf-8-sig").strip()
    try:
        value = json.loads(text)
    except ValueError:
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else text
    if isinstance(value, dict):
        value = value.get("label", -1)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _texts(values: list[bytes]) -> np.ndarray:
    return np.array(values or [b""], dtype=np.bytes_)[: len(values)]
