"""The text file in which loader processes list training images that turn out to be broken, one per line."""

from __future__ import annotations

from pathlib import Path

from core.data.broken import BrokenImages

BROKEN_FILE = "broken_training_images.txt"
"""Its name in a run folder."""


def note_broken(report: Path, name: str, total: int, share: float) -> None:
    """Adds a name to the file `report`, once. Raises `UserError` if it lists more than `share` of `total` images."""
    account = BrokenImages(total, share)
    account.add(read_lines(report))
    if name not in account.names:
        # Several loader processes append; one short write is never torn.
        with report.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")
    account.add([name])


def read_lines(report: Path) -> list[str]:
    """The names in the file, each once; empty if there is no file."""
    if not report.is_file():
        return []
    return list(dict.fromkeys(report.read_text(encoding="utf-8", errors="replace").splitlines()))
