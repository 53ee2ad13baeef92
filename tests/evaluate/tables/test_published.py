"""configs/published: the papers' tables again, each number with its source and a protocol that exists."""

from __future__ import annotations

from pathlib import Path

import pytest
from timm import is_model

from core.errors import UserError
from evaluate.common.protocol import FOLDER as PROTOCOLS
from evaluate.common.protocol import kind_of_protocol
from evaluate.common.registry import find_description
from evaluate.tables.published import read_published
from evaluate.tables.transfer_table import build_table


def rows_of(paper: str, *protocols: str) -> dict[str, list[float | None]]:
    """The table of one paper's numbers alone: row -> numbers, by column."""
    table = build_table((), [n for n in read_published() if paper in n.url and n.protocol in protocols])
    assert all(row.published for row in table.rows)
    columns = range(len(table.columns))
    return {
        row.name: [table.cells[y, x].mean if (y, x) in table.cells else None for x in columns]
        for y, row in enumerate(table.rows)
    }


def test_the_mulan_papers_coco_table() -> None:
    assert rows_of("2602.05845", "coco_maskrcnn_r50_fpn_1x_mulan") == {
        "supervised": [39.0, 35.4],
        "MoCo v2": [39.8, 36.1],
        "BYOL": [40.4, 37.0],
        "SwAV": [41.6, 37.8],
        "Barlow Twins": [40.0, 36.7],
        "DINO": [41.2, 37.1],
        "MULAN": [41.8, 38.0],
    }


def test_the_mulan_papers_knn_and_linear_table() -> None:
    assert rows_of("2602.05845", "knn_mulan", "linear_mulan_r50") == {
        "BYOL, two globals, 200 epochs": [63.1, 70.7],
        "BYOL, multi-crop, 200 epochs": [69.5, 74.7],
        "BYOL, multi-task, 200 epochs": [69.9, 75.6],
        "SimSiam, two globals, 200 epochs": [60.2, 69.9],
        "SimSiam, multi-crop, 200 epochs": [65.3, 73.9],
        "SimSiam, multi-task, 200 epochs": [66.5, 74.7],
        "MoCo v3, two globals, 200 epochs": [64.5, 71.4],
        "MoCo v3, multi-crop, 200 epochs": [68.7, 75.2],
        "MoCo v3, multi-task, 200 epochs": [69.2, 75.7],
        "BYOL, multi-task, 800 epochs": [70.9, 76.7],
        "BYOL, four globals, 200 epochs": [64.3, 71.7],
        "BYOL, two globals and two cutouts, 200 epochs": [68.6, 73.7],
        "BYOL ViT-S/16, multi-task, 200 epochs": [70.2, None],
        "BYOL ViT-B/16, multi-task, 200 epochs": [74.2, None],
    }


def test_the_simsiam_papers_detection_table() -> None:
    rows = rows_of("2011.10566", "voc_frcnn_r50_c4_24k", "coco_maskrcnn_r50_c4_1x")
    assert rows["random initialisation"] == [26.4, 29.3, 60.2, 33.8, 33.1]  # COCO box, mask; VOC AP50, AP, AP75
    assert rows["SimSiam, optimal"] == [39.2, 34.4, 82.4, 57.0, 63.7]
    assert len(rows) == 7


def test_what_departs_from_the_mulan_papers_protocols_is_named() -> None:
    ours = [n for n in read_published() if "2602.05845" in n.url]
    for number in ours:
        if number.protocol.startswith(("linear_", "knn_")):
            assert not number.exact, number
            assert "float16" in number.note, number
            assert ("standardis" in number.note) == number.protocol.startswith("linear_"), number
            assert ("the target network" in number.note) == ("vit" in number.backbone), number
    assert {n.row for n in ours if n.exact} == {"MULAN"}
    assert {n.protocol for n in ours if n.exact} == {"coco_maskrcnn_r50_fpn_1x_mulan"}


def test_every_number_has_its_source_and_a_protocol_of_ours() -> None:
    published = read_published()
    assert len(published) > 300
    for number in published:
        assert number.paper, number
        assert number.table, number
        assert number.url.startswith("https://"), number
        assert find_description(kind_of_protocol(number.protocol)).metric(number.metric), number
        assert (PROTOCOLS / f"{number.protocol}.yaml").is_file(), number
        assert 0 < number.value < 100, number
        assert is_model(number.backbone), number
        assert number.exact or number.note, number
        assert number.comparable == (number.exact and not number.unconfirmed), number


def test_faulty_files(tmp_path: Path) -> None:
    table = "{protocol: p, metrics: [box_ap, mask_ap], table: T, backbone: b, images: 1, rows: {A: [1.0]}}"
    (tmp_path / "a.yaml").write_text(f"paper: P\nurl: https://x\ntables: [{table}]")
    with pytest.raises(UserError, match=r"a\.yaml.*'A'.*\b2\b"):
        read_published(tmp_path)
    table = table.replace("[1.0]", "[1.0, 2.0]")
    (tmp_path / "a.yaml").write_text(f"paper: P\nurl: https://x\ntables: [{table[:-1]}, exact: false}}]")
    with pytest.raises(UserError, match=r"a\.yaml.*\bnote\b"):
        read_published(tmp_path)
    (tmp_path / "a.yaml").write_text(f"paper: P\nurl: https://x\ntables: [{table}, {table}]")
    with pytest.raises(UserError, match=r"'A'.*box_ap"):
        read_published(tmp_path)
