"""evaluate/table.py: what shares a cell, what shares a column, and what never does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from evaluate.table import markdown, read_results


def result(
    top1: float, seed: int = 0, protocol: str = "knn_a", digest: str = "d" * 64, **checkpoint: Any
) -> dict[str, Any]:
    return {
        "format": "ssl-transfer/result/1",
        "protocol": protocol,
        "metrics": {"top1": top1},
        "backbone": "resnet18",
        "checkpoint": {"given": "x.pth", "family": "dino", "backbone_sha256": "b", **checkpoint},
        "data": {"bank": {"digest": digest}},
        "seed": seed,
    }


PIXELS = {**result(20.0), "backbone": "pixels", "checkpoint": {"given": "raw pixels", "backbone_sha256": ""}}
OURS = {
    "family": "ssl-transfer",
    "recipe_sha256": "c" * 64,
    "network": "online",
    "method": "byol",
    "epoch": "5",
    "data": "scenes",
}


def test_seeds_average_and_baselines_come_first() -> None:
    table = markdown([
        result(40.0, 0, **OURS), result(44.0, 1, **OURS), result(48.0, 2, **OURS),
        result(30.0, family="random"), PIXELS,
    ])  # fmt: skip
    assert table.splitlines() == [
        "| backbone | knn_a, top-1 |",
        "|---|---|",
        "| raw pixels | 20.0 |",
        "| resnet18, random initialisation | 30.0 |",
        "| resnet18, byol 5 epochs on scenes, recipe cccccc | 44.0 ± 4.0 (3 runs) |",
    ]


def test_other_recipes_and_networks_are_other_rows_and_other_runs_other_seeds() -> None:
    shared = {**OURS, "recipe_sha256": "d" * 64}
    table = markdown([
        result(40.0, backbone_sha256="1", **OURS), result(50.0, backbone_sha256="2", **OURS), result(10.0, **shared),
        result(70.0, **{**OURS, "network": "target"}),
    ])  # fmt: skip
    assert table.splitlines()[2:] == [
        "| resnet18, byol 5 epochs on scenes, recipe cccccc | 45.0 ± 7.1 (2 runs) |",
        "| resnet18, byol 5 epochs on scenes, recipe cccccc, target network | 70.0 |",
        "| resnet18, byol 5 epochs on scenes, recipe dddddd | 10.0 |",
    ]


def test_another_protocol_or_other_data_is_another_column() -> None:
    table = markdown([result(10.0), result(20.0, protocol="knn_b"), result(30.0, digest="e" * 64)])
    assert (
        table.splitlines()[0]
        == "| backbone | knn_a, top-1, data dddddddd | knn_a, top-1, data eeeeeeee | knn_b, top-1 |"
    )
    assert table.splitlines()[2] == "| resnet18, x.pth | 10.0 | 30.0 | 20.0 |"


def test_detection_and_segmentation_have_their_own_columns() -> None:
    detection = {**result(0, protocol="scenes_x"), "metrics": {"box_ap": 23.84, "mask_ap": 25.5, "box_ap50": 50.0}}
    segmentation = {**result(0, protocol="scenes_y"), "metrics": {"mIoU": 61.0}}
    assert markdown([detection, segmentation]).splitlines() == [
        "| backbone | scenes_x, box AP | scenes_x, mask AP | scenes_y, mIoU |",
        "|---|---|---|---|",
        "| resnet18, x.pth | 23.8 | 25.5 | 61.0 |",
    ]


def test_a_cell_without_result_stays_empty() -> None:
    rows = markdown([result(10.0), result(20.0, protocol="knn_b", family="random")]).splitlines()
    assert rows[2:] == ["| resnet18, random initialisation | – | 20.0 |", "| resnet18, x.pth | 10.0 | – |"]


def test_reading(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no result\.json below"):
        read_results(tmp_path)
    path = tmp_path / "a/b/result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(result(1.0)))
    assert read_results(tmp_path) == [result(1.0)]
    foreign = [
        json.dumps({**result(1.0), "metrics": {"loss": 1.0}}),
        json.dumps({**result(1.0), "format": "other"}),
        json.dumps({"format": "ssl-transfer/result/1"}),
    ]
    for bad in ("{", "[]", *foreign):
        path.write_text(bad)
        with pytest.raises(UserError, match="is not a result of this project"):
            read_results(tmp_path)
