"""Headers of a whole split's images and labels, cached for large ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.data import header_cache
from core.errors import BrokenImage
from evaluate.segmentation.data.labels import Header, read_header


def split_headers(pairs: Sequence[tuple[Path, Path]]) -> dict[Path, Header | BrokenImage]:
    """Header of every image and label, or the reason why it can't be read (core/data/header_cache.py)."""
    files = {str(file): file for pair in pairs for file in pair}
    key = f"segmentation {next(iter(files), '')}"
    found = header_cache.read_headers(key, files, read_header, _encode, _decode)
    return {files[name]: header for name, header in found.items()}


def _encode(headers: Mapping[str, Header]) -> dict[str, Any]:
    """Palettes, which the labels of a split share, stand once."""
    order = {palette: number for number, palette in enumerate(dict.fromkeys(one.palette for one in headers.values()))}
    files = {
        name: [*one.size, one.mode, one.orientation, order[one.palette], list(one.conversions), one.raw]
        for name, one in headers.items()
    }
    return {"palettes": [palette.hex() for palette in order], "files": files}


def _decode(document: Any) -> dict[str, Header]:
    palettes = [bytes.fromhex(palette) for palette in document["palettes"]]
    return {
        name: Header(
            (int(width), int(height)), str(mode), int(turn), palettes[number], tuple(map(str, reasons)), str(raw)
        )
        for name, (width, height, mode, turn, number, reasons, raw) in document["files"].items()
    }
