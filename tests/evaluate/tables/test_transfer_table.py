"""evaluate/tables/report: what shares a cell, what shares a column, and what never does."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from evaluate.common.protocol import Noise
from evaluate.tables.published import Published
from evaluate.tables.results import StoredResult, read_names, read_results, read_usable
from evaluate.tables.transfer_table import Cell, TransferTable, build_table


def document(
    top1: float, seed: int = 0, protocol: str = "knn_a", digest: str = "d" * 64, images: int = 100, **checkpoint: Any
) -> dict[str, Any]:
    return {
        "format": "ssl-transfer/result/1",
        "protocol": protocol,
        "metrics": {"top1": top1},
        "backbone": "resnet18",
        "checkpoint": {"given": "x.pth", "family": "dino", "backbone_sha256": "b", **checkpoint},
        "data": {"bank": {"digest": digest}, "queries": {"digest": digest, "images": images}},
        "seed": seed,
    }


def result(*arguments: Any, **keywords: Any) -> StoredResult:
    made = document(*arguments, **keywords)
    return StoredResult(Path(f"{made['protocol']}-{made['seed']}-{made['metrics']['top1']}/result.json"), made)


def changed(stored: StoredResult, **values: Any) -> StoredResult:
    return dataclasses.replace(stored, document={**stored.document, **values})


def numbers(table: TransferTable) -> dict[tuple[str, str], tuple[float, ...]]:
    return {(table.rows[y].name, table.columns[x].title): cell.values for (y, x), cell in table.cells.items()}


PIXELS = changed(result(20.0), backbone="pixels", checkpoint={"given": "raw pixels", "backbone_sha256": ""})
OURS = {
    "family": "ssl-transfer",
    "recipe_sha256": "c" * 64,
    "network": "online",
    "method": "byol",
    "epoch": "5",
    "data": "scenes",
}
PUBLISHED = Published(
    "BYOL", "knn_a", "top1", 50.0, "A paper", "Table 1", "https://arxiv.org/abs/1", "resnet18", 100
)  # fmt: skip


def test_seeds_average_and_baselines_come_first() -> None:
    table = build_table([
        result(40.0, 0, **OURS), result(44.0, 1, **OURS), result(48.0, 2, **OURS),
        result(30.0, family="random"), PIXELS,
    ])  # fmt: skip
    assert [row.name for row in table.rows] == [
        "raw pixels",
        "resnet18, random initialisation",
        "resnet18, byol 5 epochs on scenes, recipe cccccc",
    ]
    cell = table.cells[2, 0]
    assert (cell.values, cell.seeds, cell.mean, cell.std) == ((40.0, 44.0, 48.0), (0, 1, 2), 44.0, 4.0)
    assert [str(path) for path in cell.paths] == [f"knn_a-{i}-{40.0 + 4 * i}/result.json" for i in range(3)]
    assert table.cells[0, 0].std is None


def test_each_network_counts_once_however_many_seeds_measured_it() -> None:
    trained = [
        result(value, seed, "linear_a", **{**OURS, "backbone_sha256": digest})
        for digest, value, seed in (("1", 40.0, 0), ("1", 42.0, 1), ("2", 50.0, 0))
    ]
    cell = build_table(trained).cells[0, 0]
    assert (cell.values, cell.network_means) == ((40.0, 42.0, 50.0), (41.0, 50.0))
    assert (cell.mean, cell.counted) == (45.5, (2, "networks"))
    assert cell.std == pytest.approx(4.5 * 2**0.5)
    one = build_table(trained[:2]).cells[0, 0]
    assert (one.mean, one.counted, one.std) == (41.0, (2, "seeds"), pytest.approx(2**0.5))


def test_seeds_that_decide_nothing_have_no_spread() -> None:
    def cell(*values: float, protocol: str = "knn_a", **settings: object) -> Cell:
        runs = [changed(result(value, seed, protocol), settings=settings) for seed, value in enumerate(values)]
        return build_table(runs).cells[0, 0]

    still = cell(40.0, 40.0, 40.0)
    assert (still.mean, still.std, still.counted, len(still.paths)) == (40.0, None, (1, "measurement"), 3)
    assert cell(40.0, 41.0).counted == (2, "seeds")
    assert cell(40.0, 40.0, shots=5).std == 0.0
    assert cell(40.0, 40.0, data={"limit": 50}).std == 0.0
    assert cell(40.0, 40.0, protocol="linear_a").std == 0.0


def test_other_weights_at_the_same_path_are_another_row() -> None:
    old, new = result(40.0, backbone_sha256="1" * 64), result(60.0, backbone_sha256="2" * 64)
    assert [row.name for row in build_table([old]).rows] == ["resnet18, x.pth"]
    both = build_table([old, new], names={"resnet18, x.pth": "ambiguous"})
    assert numbers(both) == {
        ("resnet18, x.pth, weights 111111", "knn_a, top-1"): (40.0,),
        ("resnet18, x.pth, weights 222222", "knn_a, top-1"): (60.0,),
    }
    named = build_table([old, new], names={"resnet18, x.pth, weights 222222": "mine"})
    assert [row.name for row in named.rows] == ["mine", "resnet18, x.pth, weights 111111"]


def test_the_same_run_counts_once() -> None:
    table = build_table([result(40.0), dataclasses.replace(result(41.0), path=Path("later/result.json"))])
    assert table.cells[0, 0].values == (41.0,)
    assert table.cells[0, 0].paths == (Path("later/result.json"),)


def test_other_recipes_and_networks_are_other_rows_and_other_runs_other_seeds() -> None:
    table = build_table([
        result(40.0, backbone_sha256="1", **OURS), result(50.0, backbone_sha256="2", **OURS),
        result(10.0, **{**OURS, "recipe_sha256": "d" * 64}), result(70.0, **{**OURS, "network": "target"}),
    ])  # fmt: skip
    assert numbers(table) == {
        ("resnet18, byol 5 epochs on scenes, recipe cccccc", "knn_a, top-1"): (40.0, 50.0),
        ("resnet18, byol 5 epochs on scenes, recipe cccccc, target network", "knn_a, top-1"): (70.0,),
        ("resnet18, byol 5 epochs on scenes, recipe dddddd", "knn_a, top-1"): (10.0,),
    }


def test_another_protocol_or_other_data_is_another_column() -> None:
    changed_protocol = "knn_a (modified: ks=[20])"
    table = build_table([
        result(10.0), result(20.0, protocol="knn_b"), result(30.0, digest="e" * 64),
        result(40.0, protocol=changed_protocol),
    ])  # fmt: skip
    assert [(c.protocol, c.title, c.modified) for c in table.columns] == [
        ("knn_a", "knn_a, top-1, data dddddddd dddddddd", False),
        ("knn_a", "knn_a, top-1, data eeeeeeee eeeeeeee", False),
        (changed_protocol, f"{changed_protocol}, top-1", True),
        ("knn_b", "knn_b, top-1", False),
    ]
    assert [table.cells[0, x].values for x in range(4)] == [(10.0,), (30.0,), (40.0,), (20.0,)]


def test_detection_segmentation_and_transfer_sets_have_their_own_columns() -> None:
    metrics = {
        "scenes_x": {"box_ap": 23.84, "mask_ap": 25.5, "box_ap50": 50.0},
        "scenes_y": {"mIoU": 61.0, "mAcc": 70.0},
        "voc_z": {"box_ap": 57.0, "box_ap50": 82.4, "box_ap75": 63.7},
        "transfer_t on pets": {"metric": "mean_per_class", "top1": 1.0, "linear": 90.0, "knn": 80.0},
        "transfer_t on cifar10": {"metric": "top1", "top1": 95.0, "linear": 95.0, "knn": 85.0},
    }
    voc = {"voc_z": {"data": {"source": "voc:/data"}}}
    table = build_table([
        changed(result(0, protocol=name), metrics=values, settings=voc.get(name, {}))
        for name, values in metrics.items()
    ])  # fmt: skip
    assert [(column.title, table.cells[0, x].mean) for x, column in enumerate(table.columns)] == [
        ("transfer_t on cifar10, k-NN top-1", 85.0),
        ("transfer_t on cifar10, linear top-1", 95.0),
        ("transfer_t on pets, k-NN mean per class", 80.0),
        ("transfer_t on pets, linear mean per class", 90.0),
        ("scenes_x, box AP", 23.84),
        ("scenes_x, mask AP", 25.5),
        ("voc_z, box AP50", 82.4),
        ("voc_z, box AP", 57.0),
        ("voc_z, box AP75", 63.7),
        ("scenes_y, mIoU", 61.0),
    ]
    assert [column.scaled_down for column in table.columns] == [False] * 4 + [True] * 2 + [False] * 3 + [True]


def test_what_was_not_measured_is_missing() -> None:
    table = build_table([result(10.0), result(20.0, protocol="knn_b", family="random")])
    assert sorted(table.cells) == [(0, 1), (1, 0)]


def test_names_are_shown_in_their_order_and_merge_nothing() -> None:
    results = [result(1.0, **OURS), result(2.0, **{**OURS, "recipe_sha256": "d" * 64}), result(3.0)]
    rows = [row.name for row in build_table(results).rows]
    named = build_table(results, names={rows[2]: "third", rows[0]: "first"})
    assert [(row.name, row.source) for row in named.rows] == [
        ("third", f"{rows[2]}, weights b"), ("first", rows[0]), (rows[1], rows[1]),
    ]  # fmt: skip
    same = build_table(results, names={rows[0]: "one", rows[1]: "one"})
    assert [row.name for row in same.rows] == [f"one ({rows[0]})", f"one ({rows[1]})", rows[2]]
    assert [same.cells[y, 0].values for y in range(3)] == [(1.0,), (2.0,), (3.0,)]


def test_published_numbers_join_their_protocol_and_are_compared_by_name() -> None:
    random = dataclasses.replace(PUBLISHED, row="random initialisation", value=25.0, table="Table 2")
    elsewhere = [dataclasses.replace(PUBLISHED, protocol="knn_b"), dataclasses.replace(PUBLISHED, metric="mIoU")]
    results = [result(48.0, **OURS), result(30.0, family="random"), result(9.0, images=50, digest="e" * 64)]
    row = "resnet18, byol 5 epochs on scenes, recipe cccccc"
    table = build_table(results, [PUBLISHED, random, *elsewhere], {row: "BYOL"})
    assert [(r.name, r.published, r.source) for r in table.rows] == [
        ("resnet18, random initialisation", False, "resnet18, random initialisation"),
        ("BYOL", False, row),
        ("resnet18, x.pth", False, "resnet18, x.pth, weights b"),
        ("BYOL", True, "A paper, Table 1"),
        ("random initialisation", True, "A paper, Table 2"),
    ]
    assert [column.data for column in table.columns] == ["dddddddd dddddddd", "eeeeeeee eeeeeeee"]
    assert {key: (cell.values, cell.delta) for key, cell in table.cells.items()} == {
        (0, 0): ((30.0,), 5.0), (1, 0): ((48.0,), -2.0), (2, 1): ((9.0,), None),
        (3, 0): ((50.0,), None), (4, 0): ((25.0,), None),
    }  # fmt: skip


def test_an_unconfirmed_number_and_one_of_another_protocol_are_shown_and_never_compared() -> None:
    names = {"resnet18, byol 5 epochs on scenes, recipe cccccc": "BYOL"}
    untrained = dataclasses.replace(PUBLISHED, row="random initialisation")
    for hidden in ({"unconfirmed": True}, {"exact": False}, {"exact": False, "unconfirmed": True}):
        numbers_ = [dataclasses.replace(number, **hidden) for number in (PUBLISHED, untrained)]
        table = build_table([result(48.0, **OURS), result(30.0, family="random")], numbers_, names)
        assert [cell.delta for cell in table.cells.values()] == [None] * 4
        assert [cell.unconfirmed for _, cell in sorted(table.cells.items())] == [
            False, False, *[hidden.get("unconfirmed", False)] * 2,
        ]  # fmt: skip
    doubtful = dataclasses.replace(PUBLISHED, unconfirmed=True, value=51.0, paper="Another paper")
    assert build_table([result(48.0, **OURS)], [PUBLISHED, doubtful], names).cells[0, 0].delta == -2.0


def test_a_published_number_of_another_architecture_or_a_disputed_one_is_not_a_counterpart() -> None:
    row = "resnet18, byol 5 epochs on scenes, recipe cccccc"
    disputed = dataclasses.replace(PUBLISHED, paper="Another paper", value=51.0)
    wider = dataclasses.replace(PUBLISHED, backbone="resnet50")
    for numbers_, delta in (((PUBLISHED,), -2.0), ((PUBLISHED, disputed), None), ((wider,), None)):
        table = build_table([result(48.0, **OURS)], numbers_, {row: "BYOL"})
        assert table.cells[0, 0].delta == delta
        assert len(table.rows) == 1 + len(numbers_)


def test_reading(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{tmp_path}"):
        read_results(tmp_path)
    path = tmp_path / "a/b/result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document(1.0)))
    assert read_results(tmp_path) == [StoredResult(path, document(1.0))]
    foreign = [
        json.dumps({**document(1.0), "metrics": {"loss": 1.0}}),
        json.dumps({**document(1.0), "format": "other"}),
        json.dumps({"format": "ssl-transfer/result/1"}),
    ]
    for bad in ("{", "[]", *foreign):
        path.write_text(bad)
        with pytest.raises(UserError, match=str(path)):
            read_results(tmp_path)


def test_one_bad_result_hides_no_other(tmp_path: Path) -> None:
    for name, text in (
        ("a", "{"), ("b", json.dumps(document(float("nan")))), ("c", json.dumps(document(1.0))), ("d", "[]"),
    ):  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(text)
    results, sentences = read_usable(tmp_path)
    assert [each.path.parent.name for each in results] == ["c"]
    assert [sentence.split("/result.json ")[0] for sentence in sentences] == [str(tmp_path / name) for name in "abd"]
    assert "top1 of nan" in sentences[1]


def test_reading_names(tmp_path: Path) -> None:
    assert read_names(tmp_path) == {}
    (tmp_path / "names.yaml").write_text("b row: B\na row: A\n")
    assert list(read_names(tmp_path).items()) == [("b row", "B"), ("a row", "A")]
    (tmp_path / "names.yaml").write_text("b row: 3\n")
    with pytest.raises(UserError, match=r"names\.yaml.*'b row'"):
        read_names(tmp_path)


def test_numbers_within_the_protocols_noise_of_the_best_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """σ of a difference of single runs is √(2 · 1² + 2 · 0.5²) = 1.58; of 1 and 2 seeds √(1.5 + 0.5) = 1.41."""
    noise = {"knn_a": {"top1": Noise(seeds=1.0, arithmetic=0.5)}}
    monkeypatch.setattr("evaluate.tables.transfer_table.noise_of", lambda name: noise.get(name, {}))
    rows = {"best": [60.0], "close": [57.0], "far": [56.0], "two": [57.0, 57.4], "two, far": [57.0, 57.1]}
    results = [
        changed(result(value, seed=seed), checkpoint={"given": f"{name}.pth", "family": name, "backbone_sha256": name})
        for name, values in rows.items()
        for seed, value in enumerate(values)
    ]
    table = build_table([*results, changed(results[1], protocol="knn_b")], [PUBLISHED])
    marked = [cell.values for cell in table.cells.values() if cell.within_noise]
    assert sorted(marked) == [(57.0,), (57.0, 57.4)]
