"""evaluate/tables/report: scores of classes, choice of pictures, colours and charts."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from evaluate.common.pictures import save_picture
from evaluate.detection.probe import DETECTIONS
from evaluate.probes.knn.probe import MAP
from evaluate.tables.report.charts import Bars, bar_chart
from evaluate.tables.report.gallery import embed, galleries
from evaluate.tables.report.grouping import Group, Measured, group, list_measured
from evaluate.tables.report.per_class import per_class
from evaluate.tables.report.style import css_colours, row_style
from evaluate.tables.results import StoredResult
from tests.evaluate.tables.report.small_report import add_pictures, small_table


def member(number: int, row: int, seed: int, folder: Path = Path(), **metrics: Any) -> Measured:
    network = metrics.pop("network", "a")
    kind = "detection" if "box_ap_per_class" in metrics else "segmentation"
    document = {"kind": kind, "seed": seed, "metrics": metrics, "checkpoint": {"backbone_sha256": network}}
    return Measured(number, row, (0,), StoredResult(folder / f"{number}" / "result.json", document))


# Which results a page shows


def test_results_come_once_by_row_column_and_seed_and_only_equal_protocols_share_a_group(tmp_path: Path) -> None:
    table, results = small_table(tmp_path)
    measured = list_measured(table, results)
    assert [(one.number, one.row, one.columns, one.seed) for one in measured] == [
        (1, 0, (0,), 0), (2, 1, (0,), 0), (3, 1, (0,), 1), (4, 1, (0,), 2), (5, 1, (1, 2), 0),
    ]  # fmt: skip
    groups = group(table, measured)
    assert [(one.protocol, one.data, len(one.members)) for one in groups] == [
        ("knn_small", "", 4), ("coco_a (modified: lr=2)", "", 1),
    ]  # fmt: skip


# Scores of each class


def test_scores_of_classes_are_means_over_seeds() -> None:
    members = (
        member(1, 0, 0, IoU={"cat": 10.0, "dog": None}),
        member(2, 2, 0, IoU={"cat": 30.0, "dog": 50.0, "cow": float("nan")}),
        member(3, 2, 1, IoU={"cat": 40.0, "dog": None}),
        member(4, 1, 0, top1=3.0, IoU="no mapping"),
    )
    (chart,) = per_class(Group("p", "", members))
    assert (chart.metric.title, chart.names, chart.total, chart.missing) == (
        "IoU of each class",
        ("cat", "dog", "cow"),
        3,
        (1,),
    )
    assert chart.groups[0] == Bars(0, [10.0, None, None], [None, None, None])
    assert chart.groups[1] == Bars(2, [35.0, 50.0, None], [pytest.approx(50**0.5), None, None])


def test_scores_of_classes_count_each_network_once() -> None:
    members = (
        member(1, 0, 0, network="a", IoU={"cat": 40.0}),
        member(2, 0, 1, network="a", IoU={"cat": 42.0, "cow": 10.0}),
        member(3, 0, 0, network="b", IoU={"cat": 51.0}),
    )
    (chart,) = per_class(Group("p", "", members))
    assert chart.names == ("cat", "cow")
    assert chart.groups[0].values == [46.0, 10.0]
    assert chart.groups[0].spreads == [pytest.approx(5 * 2**0.5), None]


def test_of_many_classes_those_are_shown_in_which_backbones_differ_most() -> None:
    even = {f"{i}": 50.0 for i in range(80)}
    other = {**even, **{f"{i}": 50.0 + i for i in range(40, 61)}}
    chart = per_class(
        Group("p", "", (member(1, 0, 0, box_ap_per_class=even), member(2, 1, 0, box_ap_per_class=other)))
    )[0]
    assert chart.names == tuple(f"{i}" for i in range(41, 61))
    assert chart.total == 80


# Pictures


def test_one_seed_is_shown_the_one_that_most_backbones_have(tmp_path: Path) -> None:
    members = tuple(member(number, number // 2, number % 2, tmp_path) for number in range(4))
    for number in (0, 1, 3):
        add_pictures(members[number].result, DETECTIONS, "c", "1.png", "2.png", "3.png", "4.png", "5.png")
    add_pictures(members[1].result, MAP, "c", "map.png")
    (maps, detections), unreadable = galleries(Group("p", "", members))
    assert unreadable == []
    assert detections.kind == DETECTIONS
    assert [name for name, _ in detections.names] == ["1.png", "2.png", "3.png", "4.png"]
    assert detections.more == 1
    assert all([(one.row, one.seed) for one in shown] == [(0, 1), (1, 1)] for _, shown in detections.names)
    assert (maps.kind, maps.missing) == (MAP, (1,))


def test_names_that_most_backbones_share_come_first(tmp_path: Path) -> None:
    members = (member(0, 0, 0, tmp_path), member(1, 1, 0, tmp_path))
    add_pictures(members[0].result, DETECTIONS, "c", "a.png", "b.png", "c.png", "d.png", "e.png")
    add_pictures(members[1].result, DETECTIONS, "c", "e.png", "f.png")
    (gallery,), _ = galleries(Group("p", "", members))
    assert [(name, len(shown)) for name, shown in gallery.names] == [
        ("a.png", 1),
        ("b.png", 1),
        ("c.png", 1),
        ("e.png", 2),
    ]


def test_pictures_are_made_small_but_stay_themselves(tmp_path: Path) -> None:
    pixels = np.zeros((1000, 2000, 3), np.uint8)
    pixels[:, :1000] = (200, 30, 30)
    save_picture(tmp_path / "a.png", PIL.Image.fromarray(pixels), MAP, "c")
    embedded = embed(tmp_path / "a.png")
    assert (embedded.width, embedded.height) == (960, 480)
    with PIL.Image.open(io.BytesIO(base64.b64decode(embedded.source.partition(",")[2]))) as picture:
        assert picture.format == "WEBP"
        found = np.asarray(picture.convert("RGB"))
    assert np.abs(found[240, [100, 800]].astype(int) - [[200, 30, 30], [0, 0, 0]]).max() < 12


# Colours and charts


def test_no_two_rows_look_alike() -> None:
    row_styles = [row_style(row) for row in range(24)]
    assert len({(one.light, one.mark, one.dash) for one in row_styles}) == 24
    assert css_colours()[row_styles[9].light] == f"var({row_styles[9].variable})"


def test_a_chart_holds_its_values_and_takes_the_pages_colours() -> None:
    chart = bar_chart("n", 'a "text" <b>', ["$a$", "b & c"], [Bars(1, [10.0, None], [1.0, None])], "%")
    assert 'aria-label="a &quot;text&quot; &lt;b&gt;"' in chart
    assert ">$a$<" in chart
    assert ">b &amp; c<" in chart
    assert chart.count("fill: var(--c1)") == 1
    assert "#" not in chart.replace("url(#n-", "").replace('href="#n-', "")
