"""Account of a data set: everything that a reader left out, converted or decided, with counts by reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from core.files.atomic_file import write_atomically
from core.files.cache_folder import cache_folder

if TYPE_CHECKING:
    from core.data.base import ImageSet

_CACHED_FROM = 5000
"""Images from which the conversions of a set are cached: reading the headers of fewer takes a second."""
_THREADS = 8
_BLOCK = 1000


@dataclass(frozen=True)
class Account:
    """Differences between what is stored and what is used. `docs/data.md` lists the reasons."""

    skipped: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of existing files, members or samples that are not used: used + skipped = existing."""
    converted: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of used images whose pixels are not used as they are stored."""
    notes: tuple[str, ...] = ()
    """Decisions about the whole set, e.g. which folder was taken as validation split."""

    def __add__(self, other: Account) -> Account:
        """Account of both: counts are added, notes joined."""
        return Account(
            dict(Counter(self.skipped) + Counter(other.skipped)),
            dict(Counter(self.converted) + Counter(other.converted)),
            tuple(dict.fromkeys((*self.notes, *other.notes))),
        )

    def lines(self) -> list[str]:
        """Sentences for the plan, one per reason; none if the set is used as it is stored."""
        return [
            *self.notes,
            *(f"skipped {count:,}: {reason}" for reason, count in sorted(self.skipped.items())),
            *(f"converted {count:,}: {reason}" for reason, count in sorted(self.converted.items())),
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values for result.json; empty parts are left out."""
        found = {
            "skipped": dict(sorted(self.skipped.items())),
            "converted": dict(sorted(self.converted.items())),
            "notes": list(self.notes),
        }
        return {key: value for key, value in found.items() if value}


def account_of(images: ImageSet) -> Account:
    """Account of a set with the conversions of all its images, for plans and result.json.

    Reads the header of every image (about 0.1 ms each, plus the disk), once per state of the data: counts of larger
    sets are cached under the set's digest.
    """
    if len(images) < _CACHED_FROM:
        return images.account() + Account(converted=_count(images))
    name = sha256(f"1 {images.digest()}".encode()).hexdigest()
    cached = cache_folder() / "accounts" / f"{name}.json"
    counts = _read(cached)
    if counts is None:
        counts = _count(images)
        text = json.dumps(counts)
        write_atomically(cached, lambda partial: partial.write_text(text, encoding="utf-8"))
    return images.account() + Account(converted=counts)


def merged_endings(skipped: Mapping[str, int], most: int = 20) -> dict[str, int]:
    """The `most` frequent reasons; the counts of all others together under one."""
    common = Counter(skipped).most_common()
    rest = sum(count for _, count in common[most:])
    return dict(common[:most]) | ({"other reasons": rest} if rest else {})


def _count(images: ImageSet) -> dict[str, int]:
    from tqdm import tqdm

    def of_block(start: int) -> Counter[str]:
        stop = min(start + _BLOCK, len(images))
        return Counter(reason for index in range(start, stop) for reason in images.conversions(index))

    counts: Counter[str] = Counter()
    blocks = range(0, len(images), _BLOCK)
    with ThreadPoolExecutor(_THREADS) as threads:
        found: Iterable[Counter[str]] = threads.map(of_block, blocks)
        for block in tqdm(found, desc=f"headers of {images.name}", total=len(blocks), leave=False, delay=5):
            counts += block
    return dict(counts)


def _read(cached: Any) -> dict[str, int] | None:
    """Cached counts; None for a damaged file, which is then written again."""
    try:
        counts = json.loads(cached.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    sound = isinstance(counts, dict) and all(type(count) is int and count > 0 for count in counts.values())
    return counts if sound else None
