"""Pictures of several backbones side by side, made small enough to stand within the page."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL.Image

from evaluate.common.pictures import Picture, find_pictures, picture_kinds
from evaluate.tables.report.grouping import Group, Measured

_MOST_NAMES = 4
_MOST_WIDTH, _MOST_HEIGHT = 960, 1200
_QUALITY = 82


@dataclass(frozen=True)
class Shown:
    """One picture of one backbone."""

    row: int
    """Row of the table."""
    seed: int
    picture: Picture


@dataclass(frozen=True)
class Gallery:
    """Pictures of one kind, of one protocol."""

    kind: str
    """One of `picture_kinds`; empty for pictures without a kind."""
    names: tuple[tuple[str, tuple[Shown, ...]], ...]
    """By file name: the pictures of each backbone, by row."""
    more: int
    """File names that are not shown."""
    missing: tuple[int, ...]
    """Rows that were measured and have no such picture."""


def galleries(group: Group) -> tuple[list[Gallery], list[str]]:
    """The pictures of one protocol by kind, and the files that can't be read.

    Each backbone is shown with one seed, the one that most backbones have pictures of, and with up to four file names,
    those first that most of them have.
    """
    found: dict[int, tuple[Measured, list[Picture]]] = {}
    unreadable: list[str] = []
    for member in group.members:
        pictures, faulty = find_pictures(member.folder)
        unreadable += faulty
        if pictures:
            found[member.number] = (member, pictures)
    seeds = Counter(member.seed for member, _ in found.values())
    rows: dict[int, tuple[Measured, list[Picture]]] = {}
    for member, pictures in sorted(found.values(), key=lambda one: (-seeds[one[0].seed], one[0].seed)):
        rows.setdefault(member.row, (member, pictures))
    measured = {member.row for member in group.members}
    found_galleries = []
    for kind in (*picture_kinds(), ""):
        shown = [
            Shown(row, member.seed, picture)
            for row, (member, pictures) in sorted(rows.items())
            for picture in pictures
            if picture.kind == kind
        ]
        if shown:
            found_galleries.append(_gallery(kind, shown, measured))
    return found_galleries, unreadable


def _gallery(kind: str, shown: Sequence[Shown], measured: set[int]) -> Gallery:
    by_name: dict[str, list[Shown]] = {}
    for one in shown:
        by_name.setdefault(one.picture.path.name, []).append(one)
    names = sorted(by_name, key=lambda name: (-len(by_name[name]), name))
    kept = sorted(names[:_MOST_NAMES])
    missing = tuple(sorted(measured - {one.row for one in shown}))
    return Gallery(kind, tuple((name, tuple(by_name[name])) for name in kept), len(names) - len(kept), missing)


@dataclass(frozen=True)
class Embedded:
    """Attributes of an <img>."""

    source: str
    """A data: address."""
    width: int
    height: int


def embed(path: Path) -> Embedded:
    """The picture at most 960 × 1200 pixels large, as WebP within the address; lossless where that is smaller."""
    with PIL.Image.open(path, formats=["PNG"]) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((_MOST_WIDTH, _MOST_HEIGHT), PIL.Image.Resampling.LANCZOS)
    data = min((_webp(picture, lossless) for lossless in (False, True)), key=len)
    return Embedded(f"data:image/webp;base64,{base64.b64encode(data).decode()}", picture.width, picture.height)


def _webp(picture: PIL.Image.Image, lossless: bool) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format="WEBP", lossless=lossless, quality=_QUALITY, method=4)
    return stream.getvalue()
