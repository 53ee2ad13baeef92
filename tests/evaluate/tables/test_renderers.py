"""evaluate/table.py: the transfer table as Markdown, CSV and LaTeX, and its command line."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from pathlib import Path

from evaluate.common.metrics import Metric
from evaluate.tables.published import Published
from evaluate.tables.renderers import as_csv, latex, markdown
from evaluate.tables.transfer_table import Cell, Column, Row, TransferTable
from tests.torchrun import python

PUBLISHED = Published(
    "BYOL", "coco_x", "box_ap", 40.4, "Li, A paper", "Table 4", "https://arxiv.org/abs/1", "resnet50", 5000, "a remark"
)
TABLE = TransferTable(
    (Row("ours & co", False, "resnet50, ours"), Row("BYOL", True, "Li, A paper, Table 4")),
    (
        Column("coco_x", Metric("box_ap", "box AP"), "coco_x, box AP", "d", False),
        Column(
            "knn_scenes (modified: ks=[1])", Metric("top1", "top-1"), "knn_scenes (modified: ks=[1]), top-1", "e", True
        ),
    ),
    {
        (0, 0): Cell((40.0, 44.0), (0, 3), (Path("r/a b/result.json"), Path("r/c/result.json")), PUBLISHED),
        (0, 1): Cell((50.0,), (0,), (Path("r/d/result.json"),), None),
        (1, 0): Cell((40.4,), (), (), PUBLISHED),
    },
)


def test_markdown() -> None:
    lines = markdown(TABLE, Path("r")).splitlines()
    assert lines[:5] == [
        "| backbone | coco_x, box AP | knn_scenes (modified: ks=[1]), top-1†‡ |",
        "|---|---|---|",
        "| ours & co | 42.0 ± 2.8 (2 seeds: [0](a%20b/result.json), [3](c/result.json)) (+1.6) "
        "| [50.0](d/result.json) |",
        "| BYOL (published) | 40.4 | – |",
        "",
    ]
    notes = lines[5:]
    assert notes[-1] == "- BYOL (published): Li, A paper, Table 4, https://arxiv.org/abs/1; a remark"
    assert all(note.startswith("- ") for note in notes)
    for printed in ("percent", "± standard deviation", "- † ", "- ‡ ", "without ±", "difference"):
        assert sum(printed in note for note in notes) == 1, printed


def test_a_spread_names_its_seeds() -> None:
    paths = (Path("r/1/result.json"), Path("r/2/result.json"), Path("r/3/result.json"))
    networks = Cell((40.0, 42.0, 50.0), (0, 1, 0), paths, None, ("a", "a", "b"))
    still = Cell((40.0, 40.0, 40.0), (0, 1, 2), paths, None, ("a", "a", "a"), seed_matters=False)
    table = dataclasses.replace(TABLE, cells={**TABLE.cells, (0, 0): networks, (0, 1): still})
    assert markdown(table, Path("r")).splitlines()[2] == (
        "| ours & co | 45.5 ± 6.4 (2 networks: [1](1/result.json), [2](2/result.json), [3](3/result.json)) "
        "| [40.0](1/result.json) |"
    )
    assert r"ours \& co & 45.5 $\pm$ 6.4 (2 networks) & 40.0 \\" in latex(table, Path("r"))


def test_csv_has_a_line_for_each_cell() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(TABLE, Path("r")))))
    assert [[line[key] for key in ("row", "mean", "std", "std_over", "runs", "delta")] for line in lines] == [
        ["ours & co", "42.0", "2.8284", "2 seeds", "2", "1.6"],
        ["ours & co", "50.0", "", "", "1", ""],
        ["BYOL", "40.4", "", "", "0", ""],
    ]
    assert lines[0]["results"] == "a%20b/result.json c/result.json"
    assert (lines[0]["values"], lines[0]["seeds"], lines[0]["published_value"]) == ("40 44", "0 3", "40.4")
    assert (lines[1]["scaled_down"], lines[1]["modified"]) == ("True", "True")
    assert (lines[2]["published"], lines[2]["published_source"]) == ("True", "Li, A paper, Table 4")


def test_latex() -> None:
    assert latex(TABLE, Path("r")).splitlines()[1:12] == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r"backbone & coco\_x, box AP & knn\_scenes (modified: ks=[1]), top-1$\dagger$$\ddagger$ \\",
        r"\midrule",
        r"ours \& co & 42.0 $\pm$ 2.8 (2 seeds) (+1.6) & 50.0 \\",
        "% coco_x, box AP: a b/result.json, c/result.json",
        "% knn_scenes (modified: ks=[1]), top-1: d/result.json",
        r"\midrule",
        r"BYOL & 40.4 & -- \\",
        "% coco_x, box AP: Li, A paper, Table 4",
        r"\bottomrule",
    ]


def test_an_unconfirmed_number_is_marked_and_explained_in_every_form() -> None:
    doubtful = dataclasses.replace(PUBLISHED, unconfirmed=True)
    cells = {**TABLE.cells, (0, 0): dataclasses.replace(TABLE.cells[0, 0], published=None)}
    table = dataclasses.replace(TABLE, cells={**cells, (1, 0): Cell((40.4,), (), (), doubtful)})
    lines = markdown(table, Path("r")).splitlines()
    assert lines[3] == "| BYOL (published) | 40.4§ | – |"
    assert sum(line.startswith("- § ") for line in lines) == 1
    assert "§" not in markdown(TABLE, Path("r"))
    rows = list(csv.DictReader(io.StringIO(as_csv(table, Path("r")))))
    assert [(row["mean"], row["unconfirmed"]) for row in rows] == [
        ("42.0", "False"), ("50.0", "False"), ("40.4", "True"),
    ]  # fmt: skip
    assert r"BYOL & 40.4\S{} & -- \\" in latex(table, Path("r"))


def test_a_number_within_the_protocols_noise_is_marked_in_every_form() -> None:
    close = dataclasses.replace(TABLE.cells[0, 1], within_noise=True)
    table = dataclasses.replace(TABLE, cells={**TABLE.cells, (0, 1): close})
    assert "[50.0](d/result.json)≈" in markdown(table, Path("r"))
    assert "50.0$\\approx$" in latex(table, Path("r"))
    for form in (markdown, latex):
        assert "noise" in form(table, Path("r"))
        assert "noise" not in form(TABLE, Path("r"))


def test_the_command(tmp_path: Path) -> None:
    document = {
        "format": "ssl-transfer/result/1", "protocol": "coco_maskrcnn_r50_fpn_1x_densecl", "backbone": "resnet50",
        "metrics": {"box_ap": 41.0, "mask_ap": 38.5}, "seed": 0,
        "checkpoint": {"given": "a.pth", "family": "byol", "backbone_sha256": "b"},
        "data": {"train": {"digest": "1" * 64}, "val": {"digest": "2" * 64, "images": 5000}},
    }  # fmt: skip
    path = tmp_path / "results/one/result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document))
    (tmp_path / "results/names.yaml").write_text("resnet50, a.pth: SimCLR, 1000 epochs\n")
    out = tmp_path / "table.md"
    page = tmp_path / "report"
    done = python("evaluate/table.py", str(tmp_path / "results"), "--out", str(out), "--html", str(page))
    assert done.returncode == 0, done.stderr
    assert f"report: {page / 'index.html'}" in done.stdout
    assert "PixPro, 100 epochs" in (page / "index.html").read_text()
    lines = out.read_text().splitlines()
    assert lines[2] == (
        "| SimCLR, 1000 epochs | [41.0](results/one/result.json) (+1.2) | [38.5](results/one/result.json) (+2.6) |"
    )
    assert "| PixPro, 100 epochs (published) | 40.8 | 36.8 |" in lines
    for link in re.findall(r"\((\S+result\.json)\)", out.read_text()):
        assert (tmp_path / link).is_file()

    alone = python("evaluate/table.py", str(tmp_path / "results"), "--no-published", "--format", "csv")
    assert alone.stdout.count("\n") == 3
    papers = python("evaluate/table.py")
    assert "| BYOL, multi-task, 200 epochs (published) |" in papers.stdout
    wrong = python("evaluate/table.py", "--no-published")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: ")


def test_metrics_of_another_unit_and_direction_show_both() -> None:
    error = Metric("rmse", "RMSE", unit="m", better="lower", digits=3)
    theirs = dataclasses.replace(PUBLISHED, protocol="depth_x", metric="rmse", value=0.4123)
    columns = (Column("depth_x", error, "depth_x, RMSE (m) ↓", "d", False), TABLE.columns[1])
    cells = {**TABLE.cells, (0, 0): Cell((0.39,), (0,), (Path("r/a/result.json"),), theirs)}
    cells[1, 0] = Cell((0.4123,), (), (), theirs)
    table = dataclasses.replace(TABLE, columns=columns, cells=cells)
    lines = markdown(table, Path("r")).splitlines()
    assert lines[2].startswith("| ours & co | [0.390](a/result.json) (-0.022) |")
    assert lines[3] == "| BYOL (published) | 0.412 | – |"
    notes = "\n".join(lines[5:])
    assert "lower is better" in notes
    assert "minus" in notes
    assert "all numbers in percent" not in notes
    assert r"RMSE (m) $\downarrow$ &" in latex(table, Path("r"))
    first = next(csv.DictReader(io.StringIO(as_csv(table, Path("r")))))
    assert (first["metric"], first["unit"], first["better"], first["delta"]) == ("rmse", "m", "lower", "-0.0223")
