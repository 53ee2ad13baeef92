"""Noise of a protocol in the table: whose noise is known, and the note on columns where it isn't."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluate.common.protocol import current_version, kind_of_protocol, noise_of, protocol_file
from evaluate.tables.published import Published
from evaluate.tables.renderers import markdown
from evaluate.tables.results import StoredResult, read_results
from evaluate.tables.transfer_table import TransferTable, build_table
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
