"""Published numbers with their sources: configs/published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.config import load_config
from core.errors import UserError
from core.project import CONFIGS

FOLDER = CONFIGS / "published"


@dataclass(frozen=True)
class Published:
    """One number."""

    row: str
    """Backbone and training, e.g. `BYOL, multi-task, 200 epochs`. A row of ours with this name is compared with it."""
    protocol: str
    """Our name of the protocol it was measured under."""
    metric: str
    """Key of one of the metrics of the protocol's kind."""
    value: float
    """In the metric's unit."""
    paper: str
    """The paper the number stands in, which need not be the one that proposes the method."""
    table: str
    """Place in the source: `Table 4`, or the table's subject."""
    url: str
    """The paper's address."""
    backbone: str
    """timm's name of the architecture."""
    images: int
    """Size of the test split: a result on another number of images is not compared with it."""
    note: str = ""
    """Facts that a reader needs to compare."""
    exact: bool = True
    """False where our protocol is known to depart from the paper's: shown next to our numbers, not compared."""
    unconfirmed: bool = False
    """True for a number that nobody could confirm outside the paper: marked in the table, not compared."""

    @property
    def comparable(self) -> bool:
        """True where a result of ours under the protocol may be compared with it."""
        return self.exact and not self.unconfirmed

    @property
    def source(self) -> str:
        """Paper and table."""
        return f"{self.paper}, {self.table}"


@dataclass(frozen=True)
class _Table:
    """One table of one paper under one protocol, as a file of configs/published holds it."""

    protocol: str
    """Our name of the protocol."""
    metrics: tuple[str, ...]
    """Metrics of each row's numbers, in this order."""
    table: str
    """Place in the paper: `Table 4`, or the table's subject."""
    backbone: str
    """timm's name of the architecture."""
    images: int
    """Size of the test split."""
    rows: dict[str, tuple[float | None, ...]]
    """By row: its numbers; null where the paper has none."""
    note: str = ""
    """Facts that a reader needs to compare."""
    exact: bool = True
    """False where our protocol is known to depart from the paper's; `note` then has the reason."""
    unconfirmed: bool = False
    """True where nobody could confirm the numbers outside the paper."""

    def __post_init__(self) -> None:
        if wrong := [row for row, values in self.rows.items() if len(values) != len(self.metrics)]:
            raise ValueError(f"rows: {wrong[0]!r} must have {len(self.metrics)} numbers ({', '.join(self.metrics)})")
        if not self.exact and not self.note:
            raise ValueError("note must say how our protocol departs where exact is false")
        if self.images < 1:
            raise ValueError(f"images must be positive, not {self.images}")


@dataclass(frozen=True)
class _Paper:
    """A file of configs/published."""

    paper: str
    """Authors, title, year."""
    url: str
    """Its address."""
    tables: tuple[_Table, ...]
    """Its numbers that we have a protocol for."""


def read_published(folder: Path = FOLDER) -> tuple[Published, ...]:
    """All published numbers, file by file, in the order in which they stand there. `UserError` for a faulty file."""
    found: dict[tuple[str, str, str, str], Published] = {}
    for file in sorted(folder.glob("*.yaml")):
        paper = load_config(_Paper, file)
        for table in paper.tables:
            for row, values in table.rows.items():
                for metric, value in zip(table.metrics, values, strict=True):
                    if value is None:
                        continue
                    key = (row, table.protocol, metric, paper.paper)
                    if key in found:
                        raise UserError(f"{file} gives {row!r} two numbers of {metric} under {table.protocol}")
                    found[key] = Published(
                        row, table.protocol, metric, value, paper.paper, table.table, paper.url, table.backbone,
                        table.images, table.note, table.exact, table.unconfirmed,
                    )  # fmt: skip
    return tuple(found.values())
