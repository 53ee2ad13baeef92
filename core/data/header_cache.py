"""Facts from the headers of many image files, read by several threads and kept between runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from core.errors import BrokenImage
from core.files.atomic_file import write_atomically
from core.files.cache_folder import cache_folder

CACHED_FROM = 5000
"""Files from which headers are cached; fewer take a second."""
_THREADS = 8
_BLOCK = 500
Header = TypeVar("Header")
State = tuple[int, int]
"""Size in bytes and time of modification in ns of a file."""


def read_headers(
    key: str,
    files: Mapping[str, Path],
    read: Callable[[Path], Header],
    encode: Callable[[Mapping[str, Header]], Any],
    decode: Callable[[Any], dict[str, Header]],
) -> dict[str, Header | BrokenImage]:
    """What `read` returns for each file, or the `BrokenImage` that it raises; about 0.1 ms each, plus the disk.

    The headers of many files are cached under `key`: those of a file count as long as its size and time of modification
    stay. `encode` and `decode` translate them to values of JSON and back; what `decode` can't read is read anew.
    """
    many = len(files) >= CACHED_FROM
    cached = cache_folder() / "image-headers" / f"{sha256(key.encode()).hexdigest()}.json"
    states, known = _load(cached, decode) if many else ({}, {})

    def look(name: str) -> tuple[State | None, Header | BrokenImage]:
        path = files[name]
        try:
            stat = path.stat()
            state = (stat.st_size, stat.st_mtime_ns)
            return state, known[name] if states.get(name) == state and name in known else read(path)
        except OSError as error:
            return None, BrokenImage(str(path), error.strerror or "can't be read")
        except BrokenImage as error:
            return None, error

    names = list(files)
    blocks = [names[start : start + _BLOCK] for start in range(0, len(names), _BLOCK)]
    found: dict[str, tuple[State | None, Header | BrokenImage]] = {}
    with ThreadPoolExecutor(_THREADS) as threads:
        looked = threads.map(lambda block: [look(name) for name in block], blocks)
        for block, headers in zip(
            blocks, tqdm(looked, desc="headers", total=len(blocks), leave=False, delay=5), strict=True
        ):
            found.update(zip(block, headers, strict=True))
    fresh = {name: header for name, (_, header) in found.items() if not isinstance(header, BrokenImage)}
    if many and {name: found[name][0] for name in fresh} != states:
        document = {"states": {name: found[name][0] for name in fresh}, "headers": encode(fresh)}
        text = json.dumps(document)
        write_atomically(cached, lambda partial: partial.write_text(text, encoding="utf-8"))
    return {name: header for name, (_, header) in found.items()}


def _load(cached: Path, decode: Callable[[Any], dict[str, Header]]) -> tuple[dict[str, State], dict[str, Header]]:
    """Cached states and headers; none for a damaged file, which is then written again."""
    try:
        document = json.loads(cached.read_text(encoding="utf-8"))
        states = {str(name): (int(size), int(time)) for name, (size, time) in document["states"].items()}
        return states, decode(document["headers"])
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return {}, {}
