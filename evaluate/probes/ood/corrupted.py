"""Further results of a trained detector or segmentor, on corrupted test images: arguments, names and folders."""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Sequence
from pathlib import Path

import PIL.Image

Cell = tuple[str, int]
"""Corruption and severity."""


def add_corrupt(parser: argparse.ArgumentParser) -> None:
    """Adds --corrupt, for evaluations of a trained model."""
    parser.add_argument(
        "--corrupt", nargs="+", default=[], metavar="NAME:SEVERITY",
        help="also measure on test images under these corruptions, e.g. fog:3 (fog alone: all five severities); their "
        "results lie in `corrupted` next to result.json",
    )  # fmt: skip


def corruption_cells(given: Sequence[str]) -> list[Cell]:
    """Corruptions of the command line, each once. Raises `UserError`."""
    if not given:
        return []  # without an import of SciPy
    from core.data.corruptions import parse_corruption

    texts = [text for each in given for text in ([each] if ":" in each else [f"{each}:{n}" for n in range(1, 6)])]
    return list(dict.fromkeys(parse_corruption(text) for text in texts))


def corrupted_protocol(protocol: str, cell: Cell) -> str:
    """The protocol's full name with the corruption, under which the result has columns of its own."""
    change = f"corrupt={cell[0]}:{cell[1]}"
    if protocol.endswith(")") and " (modified: " in protocol:
        return f"{protocol[:-1]}, {change})"
    return f"{protocol} (modified: {change})"


def corrupted_folder(folder: Path, cell: Cell) -> Path:
    """Folder of the result below that of the run."""
    return folder / "corrupted" / f"{cell[0]}-{cell[1]}"


def corrupted_file(image: PIL.Image.Image, file: str, cell: Cell) -> PIL.Image.Image:
    """The image under the corruption; random numbers depend on the file's name and the corruption alone."""
    from core.data.corruptions import corrupt

    return corrupt(image, *cell, seed=0, index=zlib.crc32(Path(file).name.encode("utf-8", "surrogateescape")))
