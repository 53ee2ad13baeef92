"""A transfer table made by hand with its results on disk, and a page taken apart, for the tests of the report."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import PIL.Image

from evaluate.common.metrics import Metric
from evaluate.common.pictures import save_picture
from evaluate.tables.published import Published
from evaluate.tables.results import StoredResult
from evaluate.tables.transfer_table import Cell, Column, Row, TransferTable

EVIL = "<script>alert('x')</script>&amp;"
PAPER = Published(
    "BYOL", "coco_a", "box_ap", 40.0, "A & B", "Table 1", "https://example.org/1", "resnet50", 10, "a note"
)  # fmt: skip
BLOCKS = {"p", "li", "h1", "h2", "h3", "h4", "td", "th", "dd", "dt", "figcaption", "summary", "pre", "section"}
VOID = {"meta", "link", "img", "br", "wbr", "hr", "input"}


def stored(folder: Path, name: str, protocol: str, seed: int, metrics: dict[str, Any], **checkpoint: Any) -> Any:
    """A result on disk, as evaluations write it."""
    document = {
        "format": "ssl-transfer/result/1",
        "protocol": protocol,
        "metrics": metrics,
        "backbone": "resnet18",
        "checkpoint": {"given": f"{name}.pth", "family": "random", "backbone_sha256": f"sha-{name}", **checkpoint},
        "data": {
            "train": {"name": "t", "images": 1200, "digest": "d1", "broken": ["a.jpg: cut short"]},
            "val": {"name": "v", "images": 10, "digest": "d2", "broken": []},
        },
        "seed": seed,
        "settings": {"loaded": "126 of 126 tensors loaded"},
        "wall_seconds": 300.0,
        "device": "CPU (x86_64)",
        "libraries": {"python": "3.11", "torch": "2.14"},
        "git_revision": "abcdef",
        "date": "2026-01-02T03:04:05Z",
    }
    path = folder / "results" / f"{name} {seed}" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document, ensure_ascii=False))
    return StoredResult(path, document)


def small_table(folder: Path, name: str = "ours", **checkpoint: Any) -> tuple[TransferTable, list[StoredResult]]:
    """Two backbones and a published row; a scaled-down protocol, and one with two metrics that was modified."""
    per_class = {"cat": 10.0, EVIL: 20.0, "dog": None}
    results = [
        *(stored(folder, name, "knn_small", s, {"top1": 40.0 + 4 * s, "top1_per_class": per_class}, **checkpoint)
          for s in range(3)),
        stored(folder, f"{name}-coco", "coco_a (modified: lr=2)", 0, {"box_ap": 34.0, "mask_ap": 30.0}, **checkpoint),
        stored(folder, "base", "knn_small", 0, {"top1": 20.0, "top1_per_class": {"cat": 30.0, EVIL: 1.0, "dog": 5.0}}),
    ]  # fmt: skip
    paths = [result.path for result in results]
    columns = (
        Column("knn_small", Metric("top1", "top-1"), "knn_small, top-1", "d1 d2", True),
        Column(
            "coco_a (modified: lr=2)", Metric("box_ap", "box AP"), "coco_a (modified: lr=2), box AP", "d1 d2", False
        ),
        Column(
            "coco_a (modified: lr=2)", Metric("mask_ap", "mask AP"), "coco_a (modified: lr=2), mask AP", "d1 d2", False
        ),
    )
    rows = (
        Row("base", False, "resnet18, random initialisation"),
        Row(f"{name}", False, f"{name}, as the results tell it"),
        Row("BYOL", True, "A & B, Table 1"),
    )
    cells = {
        (0, 0): Cell((20.0,), (0,), (paths[4],), None),
        (1, 0): Cell((40.0, 44.0, 48.0), (0, 1, 2), tuple(paths[:3]), None),
        (1, 1): Cell((34.0,), (0,), (paths[3],), PAPER),
        (1, 2): Cell((30.0,), (0,), (paths[3],), None),
        (2, 1): Cell((40.0,), (), (), PAPER),
    }
    return TransferTable(rows, columns, cells), results


def add_pictures(result: StoredResult, kind: str, caption: str, *names: str, size: tuple[int, int] = (40, 20)) -> None:
    for name in names:
        save_picture(result.path.parent / "pictures" / name, PIL.Image.new("RGB", size, "teal"), kind, caption)


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parts: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text, white space as a browser has it."""
        return " ".join(self._pieces().split())

    def _pieces(self) -> str:
        pieces = "".join(part if isinstance(part, str) else part._pieces() for part in self.parts)
        return f" {pieces} " if self.tag in BLOCKS else pieces

    def all(self, tag: str, **wanted: str) -> list[Element]:
        """Elements below of this tag (`*`: any), in order, that have these attributes."""
        found = []
        for part in self.parts:
            if isinstance(part, Element):
                fits = all(part.attributes.get(key) == value for key, value in wanted.items())
                found += [part] if fits and tag in (part.tag, "*") else []
                found += part.all(tag, **wanted)
        return found

    def one(self, tag: str, **wanted: str) -> Element:
        (found,) = self.all(tag, **wanted)
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs})
        self.open[-1].parts.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].parts.append(Element(tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].parts.append(data)


def read_page(path: Path) -> Element:
    """The page as a tree; fails where tags are not closed in order."""
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert len(reader.open) == 1, f"<{reader.open[-1].tag}> is not closed"
    return reader.open[0]
