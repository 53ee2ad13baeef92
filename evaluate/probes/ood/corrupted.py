"""Further results of a trained detector or segmentor, on corrupted test images: arguments, names and folders."""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image

if TYPE_CHECKING:
    from core.result import Result

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


def write_corrupted(folder: Path, cell: Cell, result: Result, table: str) -> None:
    """Writes a result under the corruption's name, below the run's `folder`, and prints it with its `table`.

    `result`: protocol and settings are those of the run on clean images; the corruption is added here.
    """
    from core.result import write_result

    name = f"{cell[0]}:{cell[1]}"
    path = corrupted_folder(folder, cell) / "result.json"
    settings = {**result.settings, "corrupt": name}
    write_result(path, replace(result, protocol=corrupted_protocol(result.protocol, cell), settings=settings))
    print(f"{name}\n{table}\nresult: {path}")


def corrupted_file(image: PIL.Image.Image, file: str, cell: Cell) -> PIL.Image.Image:
    """The image under the corruption; random numbers depend on the file's name and the corruption alone."""
    from core.data.corruptions import corrupt

    return corrupt(image, *cell, seed=0, index=zlib.crc32(Path(file).name.encode("utf-8", "surrogateescape")))
