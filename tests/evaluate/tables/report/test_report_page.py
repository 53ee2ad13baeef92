"""evaluate/tables/report/page.py: what the page says, where its links lead, and that no text becomes markup."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from core.errors import UserError
from evaluate.common.metrics import Metric
from evaluate.detection.probe import DETECTIONS
from evaluate.probes.knn.probe import MAP
from evaluate.tables.published import Published
from evaluate.tables.report.page import write_page
from evaluate.tables.transfer_table import Cell, Column, Row, TransferTable, build_table
from tests.evaluate.tables.report.small_report import EVIL, Element, add_pictures, read_page, small_table


@pytest.fixture
def page(tmp_path: Path) -> Element:
    return read_page(write_page(*small_table(tmp_path), tmp_path / "report"))


def test_the_table_has_its_numbers_heads_and_rows(page: Element) -> None:
    table = page.one("section", **{"aria-labelledby": "table"}).one("table")
    lines = [[cell.text for cell in line.all("td")] for line in table.one("tbody").all("tr")]
    assert lines == [
        ["20.0", "–", "–"],
        ["44.0 ± 4.0 3 seeds: 0 1 2", "34.0 −6.0 to 40.0 published", "30.0"],
        ["–", "40.0", "–"],
    ]
    heads = [head.text for head in table.all("th", scope="row")]
    assert heads == ["● base", "■ ours", "BYOL published, source 1"]
    assert [head.text for head in table.all("th", scope="colgroup")] == ["knn_small†", "coco_a‡1"]
    assert [head.text for head in table.all("th", scope="col")] == ["Backbone", "top-1", "box AP", "mask AP"]
    assert table.one("caption").text.startswith("In percent: mean ± standard deviation")
    printed = page.one("section", **{"aria-labelledby": "table"}).text
    assert "† " in printed
    assert re.search(r"coco_a: .*: lr=2\b", printed)
    assert "BYOL: A & B, Table 1; a note" in printed
    assert "ours: ours, as the results tell it" in printed
    assert "3 of 4 measured numbers " in printed


def test_an_unconfirmed_number_leads_to_what_that_means(tmp_path: Path) -> None:
    table, results = small_table(tmp_path)
    cell = table.cells[2, 1]
    assert cell.published is not None
    doubtful = dataclasses.replace(cell, published=dataclasses.replace(cell.published, unconfirmed=True))
    table = dataclasses.replace(table, cells={**table.cells, (1, 1): table.cells[1, 2], (2, 1): doubtful})
    page = read_page(write_page(table, results, tmp_path / "report"))
    row = page.one("section", **{"aria-labelledby": "table"}).one("tbody").all("tr")[2]
    assert [one.text for one in row.all("td")] == ["–", "40.0§", "–"]
    (link,) = [link for link in row.all("a") if link.text == "§"]
    assert page.one("li", id=link.attributes["href"].removeprefix("#")).text.startswith("§ ")


def test_every_number_leads_to_its_result_and_the_result_to_its_file(page: Element, tmp_path: Path) -> None:
    table = page.one("section", **{"aria-labelledby": "table"}).one("table")
    ids = [one.attributes["id"] for one in page.all("*") if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    rows = table.one("tbody").all("tr")
    links = [[link.attributes["href"] for link in row.all("a")] for row in rows]
    source, paper = "#source-1", "https://example.org/1"
    assert links[0] == ["#result-1"]
    assert links[1] == ["#result-2", "#result-3", "#result-4", "#result-5", paper, "#result-5"]
    assert links[2] == [source, paper]
    for link in page.all("a"):
        target = link.attributes["href"]
        if target.startswith("#"):
            assert target[1:] in ids
    seen = []
    for number in range(1, 6):
        facts = page.one("dl", id=f"result-{number}")
        file = tmp_path / "report" / unquote(facts.one("a").attributes["href"])
        document = json.loads(file.read_text())
        seen.append((document["checkpoint"]["given"], document["seed"]))
        holder = next(one for one in page.all("details") if facts in one.parts)
        assert json.loads("".join(str(part) for part in holder.one("pre").parts)) == document
    assert seen == [("base.pth", 0), ("ours.pth", 0), ("ours.pth", 1), ("ours.pth", 2), ("ours-coco.pth", 0)]


def test_a_result_names_its_origin(page: Element) -> None:
    facts = page.one("dl", id="result-3")
    reported = dict(zip((one.text for one in facts.all("dt")), (one.text for one in facts.all("dd")), strict=True))
    assert reported.pop("file") == "../results/ours%201/result.json"
    assert reported == {
        "protocol": "knn_small",
        "protocol version": "1",
        "metrics": "top1 44.00",
        "seed": "1",
        "backbone": "resnet18",
        "checkpoint": "ours.pth",
        "weights loaded": "126 of 126 tensors loaded",
        "sha256 of the weights": "sha-ours",
        "data, train": "t; 1,200 images; 1 broken; digest d1",
        "data, val": "v; 10 images; digest d2",
        "date": "2026-01-02T03:04:05Z",
        "wall time": "5 min 0 s",
        "device": "CPU (x86_64)",
        "git revision": "abcdef",
        "libraries": "python 3.11, torch 2.14",
    }


def test_the_page_needs_nothing_else(page: Element) -> None:
    html = page.one("html")
    assert html.attributes["lang"] == "en"
    assert page.one("title").text == page.one("h1").text
    assert not page.all("script")
    for element in page.all("*"):
        for key, value in element.attributes.items():
            assert not key.startswith("on")
            if key == "src" or (key == "href" and element.tag != "a"):
                assert value.startswith(("data:", "#")), (element.tag, value)
    for one in page.all("svg", role="img"):
        assert one.attributes["aria-label"]
    assert "url(http" not in page.one("style").text
    assert "@import" not in page.one("style").text


def test_missing_parts_are_reported(page: Element) -> None:
    text = page.one("main").text
    assert "curves of base, ours: " in text
    assert "pictures of knn_small, coco_a (modified: lr=2)" in text
    assert not page.all("img")


def test_text_of_results_stays_text(tmp_path: Path) -> None:
    table, results = small_table(
        tmp_path, "$x$ <b>" + EVIL.replace("/", "∕"), given=f"{EVIL} (x)", family="ssl-transfer"
    )
    add_pictures(results[0], DETECTIONS, f"there {EVIL}", "a.png")
    page = read_page(write_page(table, results, tmp_path / "report"))
    assert not page.all("script")
    assert not page.all("b")
    assert page.all("figcaption")[-1].text.endswith(f"there {EVIL}")
    assert EVIL in [line.text for line in page.one("section", **{"aria-labelledby": "classes"}).all("th", scope="row")]
    assert EVIL in page.one("dl", id="result-2").text
    drawn = [one.text for one in page.all("text")]
    assert f"{EVIL[:21]}…" in drawn


def test_addresses_that_a_browser_would_run_are_none(tmp_path: Path) -> None:
    number = Published("BYOL", "knn_dino", "top1", 1.0, "paper", "", "javascript:alert(1)", "resnet50", 1)
    table = build_table([], [number])
    text = write_page(table, [], tmp_path).read_text()
    assert "javascript:" not in text
    page = read_page(tmp_path / "index.html")
    assert "No result: " in page.text
    assert "No training curves: " in page.text
    assert "No pictures: " in page.text


def test_pictures_stand_side_by_side_with_words_for_them(tmp_path: Path) -> None:
    table, results = small_table(tmp_path)
    add_pictures(results[0], MAP, "a map of ours", "map.png", size=(3000, 1500))
    add_pictures(results[4], MAP, "a map of base", "map.png")
    (results[0].path.parent / "pictures" / "broken.png").write_text("x")
    page = read_page(write_page(table, results, tmp_path / "report"))
    shown = page.one("section", **{"aria-labelledby": "pictures"})
    images = shown.all("img")
    assert [image.attributes["alt"] for image in images] == ["map of features of base", "map of features of ours"]
    assert [(image.attributes["width"], image.attributes["height"]) for image in images] == [
        ("40", "20"),
        ("960", "480"),
    ]
    assert all(image.attributes["src"].startswith("data:image/webp;base64,") for image in images)
    assert [one.text for one in shown.all("figcaption")] == [
        "● base, seed 0: a map of base", "■ ours, seed 0: a map of ours",
    ]  # fmt: skip
    assert "picture can't be read: " in shown.text
    assert "broken.png" in shown.text


def test_a_repeated_run_is_left_out_and_reported(tmp_path: Path) -> None:
    table, results = small_table(tmp_path)
    cell = Cell((44.0,), (1,), (results[1].path,), None)
    fewer = TransferTable(table.rows, table.columns, {**table.cells, (1, 0): cell})
    page = read_page(write_page(fewer, results, tmp_path / "report"))
    left_out = [one.text for one in page.all("p") if "not in the table" in one.text]
    assert left_out == [
        f"{results[number].path} is not in the table: another result is of the same run." for number in (0, 2)
    ]


def test_two_states_of_the_data_are_distinguished(tmp_path: Path) -> None:
    table, results = small_table(tmp_path)
    columns = (table.columns[0], Column("knn_small", Metric("top1", "top-1"), "knn_small, top-1, data e", "e", True))
    cells = {(0, 0): table.cells[0, 0], (1, 1): table.cells[1, 0]}
    page = read_page(
        write_page(TransferTable((Row("a", False, "a"), Row("b", False, "b")), columns, cells), results, tmp_path)
    )
    heads = [head.text for head in page.all("th", scope="colgroup")]
    assert heads == ["knn_small† data d1 d2", "knn_small† data e"]
    charts = [one.text for one in page.one("section", **{"aria-labelledby": "classes"}).all("h3")]
    assert charts == [
        "Top-1 accuracy of each class knn_small data d1 d2",
        "Top-1 accuracy of each class knn_small data e",
    ]


def test_without_matplotlib_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"Matplotlib.*pip install -e '\.\[report\]'"):
        write_page(*small_table(tmp_path), tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_rows_of_one_paper_share_its_source(tmp_path: Path) -> None:
    numbers = [
        Published(
            f"row {n}",
            "knn_dino",
            "top1",
            50.0 + n,
            paper,
            "Table 1",
            f"https://example.org/{paper}",
            "resnet50",
            1,
            note,
        )
        for n, (paper, note) in enumerate([("A", ""), ("B", ""), ("A", ""), ("A", "other data")])
    ]
    page = read_page(write_page(build_table([], numbers), [], tmp_path))
    assert [one.text for one in page.one("ol").all("li")] == [
        "row 0; row 2: A, Table 1", "row 1: B, Table 1", "row 3: A, Table 1; other data",
    ]  # fmt: skip
    cited = [row.one("a").attributes["href"] for row in page.all("th", scope="row")]
    assert cited == ["#source-1", "#source-2", "#source-1", "#source-3"]
