"""Noise of a protocol in the table: whose noise is known, and the note on columns where it isn't."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from evaluate.common.protocol import current_version, kind_of_protocol, noise_of, protocol_file
from evaluate.tables.published import Published
from evaluate.tables.renderers import latex, markdown
from evaluate.tables.report.page import write_page
from evaluate.tables.results import StoredResult, read_results
from evaluate.tables.transfer_table import Column, TransferTable, build_table
from tests.evaluate.tables.report.small_report import read_page
from tests.evaluate.tables.test_transfer_table import document
from tests.torchrun import python

LONG = f"knn_scenes_64px (modified: ks=[{', '.join(['20'] * 70)}])"
PUBLISHED = Published("BYOL", "knn_dino", "top1", 50.0, "A paper", "Table 1", "https://x.org/1", "resnet18", 100)


def store(folder: Path, protocol: str, rows: int = 2, **values: object) -> None:
    for row in range(rows):
        made = document(50.0 + row, protocol=protocol, given=f"{row}.pth", backbone_sha256=str(row)) | values
        path = folder / str(len(list(folder.glob("*")))) / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(made))


def table_of(folder: Path) -> tuple[TransferTable, list[StoredResult]]:
    results = read_results(folder)
    return build_table(results, [PUBLISHED]), results


def notes(folder: Path) -> list[str]:
    """Lines of the Markdown table that say where no noise was measured."""
    return [line for line in markdown(table_of(folder)[0], folder).splitlines() if "was not measured" in line]


@pytest.mark.parametrize(
    "name", [LONG, "k" * 300, "../evaluate/knn_scenes_64px", "knn_scenes_64px on ../../x", "a\0b", ""]
)
def test_a_name_that_no_file_has_states_nothing(name: str) -> None:
    assert noise_of(name) == {}
    if not name.startswith("knn_scenes_64px"):
        assert (kind_of_protocol(name), current_version(name)) == ("", 1)


def test_a_name_stays_within_the_folders_of_protocols() -> None:
    assert protocol_file("knn_scenes_64px", "knn").is_file()
    with pytest.raises(ValueError, match="no protocol"):
        protocol_file("../evaluate/knn_scenes_64px", "knn")


@pytest.mark.parametrize("name", [LONG, "k" * 300], ids=["modified", "foreign"])
def test_a_protocol_with_a_long_name_has_a_table_and_a_page(name: str, tmp_path: Path) -> None:
    store(tmp_path / "results", name, kind="knn")
    done = python("evaluate/table.py", str(tmp_path / "results"), "--html", str(tmp_path / "page"))
    assert done.returncode == 0, done.stderr
    assert f"| backbone | {name}, top-1" in done.stdout
    assert (tmp_path / "page/index.html").is_file()


def test_only_the_shipped_protocol_itself_has_its_noise(tmp_path: Path) -> None:
    for protocol in ("linear_scenes_64px", "linear_scenes_64px (modified: epochs=1)"):
        store(tmp_path, protocol)
    store(tmp_path, "linear_scenes_64px", protocol_version=7)
    table, _ = table_of(tmp_path)
    noise = {column.name: column.noise for column in table.columns}
    assert noise == {
        "linear_scenes_64px": noise_of("linear_scenes_64px")["top1"],
        "linear_scenes_64px (modified: epochs=1)": None,
        "linear_scenes_64px, version 7": None,
    }
    assert noise["linear_scenes_64px"] is not None


def test_columns_without_measured_noise_are_named_where_rows_of_ours_compare(tmp_path: Path) -> None:
    store(tmp_path, "linear_scenes_64px")
    store(tmp_path, "knn_dino", rows=1)  # beside a published row
    assert notes(tmp_path) == []
    store(tmp_path, "coco_maskrcnn_r50_fpn_1x_densecl", metrics={"box_ap": 40.0, "mask_ap": 36.0})
    store(tmp_path, LONG)
    (note,) = notes(tmp_path)
    assert note == (
        "- noise was not measured for knn_scenes_64px (modified) and coco_maskrcnn_r50_fpn_1x_densecl: nothing there "
        "is marked ≈, and one seed can't rank its rows"
    )


def test_three_names_are_enough(tmp_path: Path) -> None:
    for number in range(5):
        store(tmp_path, f"knn_{number}")
    assert "measured for knn_0, knn_1, knn_2 and 2 more:" in notes(tmp_path)[0]


def test_a_metric_without_noise_of_a_protocol_with_some_is_named_alone(tmp_path: Path) -> None:
    store(tmp_path, "scenes_depth_linear", metrics={"rmse": 0.4, "abs_rel": 0.3, "delta1": 60.0}, kind="depth")
    assert notes(tmp_path) == []
    table, _ = table_of(tmp_path)
    columns = tuple(without_noise(each) if each.metric.key == "rmse" else each for each in table.columns)
    text = markdown(dataclasses.replace(table, columns=columns), tmp_path)
    assert f"noise was not measured for {columns[0].title}: " in text


def without_noise(column: Column) -> Column:
    return dataclasses.replace(column, noise=None)


def test_every_form_has_the_note(tmp_path: Path) -> None:
    store(tmp_path / "results", "knn_a")
    table, results = table_of(tmp_path / "results")
    assert "noise was not measured for knn\\_a: nothing" in latex(table, tmp_path)
    page = read_page(write_page(table, results, tmp_path / "page"))
    section = page.one("section", **{"aria-labelledby": "table"})
    sentences = [each.text for each in section.all("p") if "was not measured" in each.text]
    assert sentences == [
        "Noise was not measured for knn_a: nothing there is marked ≈, and one seed can't rank its rows."
    ]
