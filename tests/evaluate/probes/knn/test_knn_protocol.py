"""evaluate/probes/knn/protocol.py and evaluate/common/protocol.py: what is refused, and what a number is called."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.config import load_config
from core.distributed import Processes
from core.errors import UserError
from core.project import CONFIGS
from evaluate.common.protocol import conflicting_result, full_name, protocol_file, result_folder
from evaluate.probes.knn.probe import PROBE
from evaluate.probes.knn.protocol import KnnConfig, knn_accuracy, open_bank_and_queries
from tests.evaluate.probes.knn.unit_features import features, unit_rows

ALONE = Processes(0, 1, torch.device("cpu"))


def test_library_errors() -> None:
    bank, queries = features(unit_rows(9, 4, 0), [0, 1, 2] * 3, 3, "bank"), features(unit_rows(2, 4, 1), [0, 1], 3, "q")
    with pytest.raises(UserError, match=r"k=10 .* 9 .*ks=\[9\]"):
        knn_accuracy(bank, queries, ALONE, (3, 10))
    with pytest.raises(UserError, match=r"queries.*\bq\b"):
        knn_accuracy(bank, features(queries.values[:0], [], 3, "q"), ALONE, (3,))
    with pytest.raises(UserError, match=r"bank.*labels"):
        knn_accuracy(features(bank.values, [-1] * 9, 0, "bank"), queries, ALONE, (3,))
    with pytest.raises(UserError, match=r"bank.*class c0\b"):
        knn_accuracy(features(bank.values, [0] * 9, 1, "bank"), features(queries.values, [0, 0], 1), ALONE, (3,))
    with pytest.raises(UserError, match=r"class 2 .*\bq\b.*c2.*bank"):
        knn_accuracy(features(bank.values, [0, 1, 1] * 3, 2, "bank"), queries, ALONE, (3,))
    with pytest.raises(ValueError, match=r"bank.*unit length"):
        knn_accuracy(features(2 * bank.values, bank.labels, 3, "bank"), queries, ALONE, (3,))
    with pytest.raises(UserError, match=r"\b3 neighbours.*bank.*finite"):
        knn_accuracy(features(np.full_like(bank.values, np.nan), bank.labels, 3, "bank"), queries, ALONE, (3,))


def test_data_errors(image_folder: Path, tmp_path: Path) -> None:
    def opened(root: Path, *overrides: str) -> Any:
        return open_bank_and_queries(load_config(KnnConfig, None, [f"data.source=folder:{root}", *overrides]), 0)

    bank, queries = opened(image_folder, "ks=[4]", "shots=2", "val_limit=5")
    assert (len(bank), len(queries)) == (4, 5)
    assert [bank.label(i) for i in range(4)] == [0, 0, 1, 1]
    assert len(opened(image_folder, "ks=[4]", "train_limit=7")[0]) == 7
    with pytest.raises(UserError, match=r"\b7 .*\bcat\b.*\b6 "):
        opened(image_folder, "ks=[4]", "shots=7")
    flat = tmp_path / "flat"
    for split in ("train", "val"):
        shutil.copytree(image_folder / "train" / "cat", flat / split)
    with pytest.raises(UserError, match=r"flat/train.*labels"):
        opened(flat, "ks=[4]", "shots=1")
    other = tmp_path / "other"
    shutil.copytree(image_folder / "train", other / "train")
    shutil.copytree(image_folder / "train" / "dog", other / "val" / "cow")
    with pytest.raises(UserError, match=r"\bcow\b.*other/train"):
        opened(other, "ks=[4]")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ks=[5,5]", r"\bks\b.*\[5, 5\]"),
        (
            "name=a/b",
            r"\bname\b.*100.*'a/b'",
        ),
        ("features.storage=int8", r"features\.storage.*'fp32' or 'fp16'"),
    ],
)
def test_impossible_settings(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(KnnConfig, None, [override])


def test_every_protocol_of_the_repository_loads_under_its_own_name() -> None:
    files = sorted((CONFIGS / "evaluate").glob("knn_*.yaml"))
    assert {file.stem for file in files} >= {"knn_dino", "knn_dino_1shot", "knn_scenes_64px", "knn_fashion_mnist_32px"}
    for file in files:
        config = load_config(KnnConfig, file)
        assert config.name == file.stem == full_name(config, file, PROBE.performance_keys)
        assert protocol_file(file.stem, "knn") == file
    dino = load_config(KnnConfig, protocol_file("knn_dino", "knn"))
    assert dino == KnnConfig()  # the defaults are the published protocol
    with pytest.raises(UserError, match=r"'knn_dinos'.*knn_dino\b"):
        protocol_file("knn_dinos", "knn")


def test_a_modified_protocol_loses_the_bare_name(tmp_path: Path) -> None:
    file = protocol_file("knn_dino", "knn")

    def name(*overrides: str, file: Path = file) -> str:
        return full_name(load_config(KnnConfig, file, overrides), file, PROBE.performance_keys)

    assert name("ks=[1,20]", "features.transform.crop=96") == (
        "knn_dino (modified: features.transform.crop=96, ks=[1,20])"
    )
    assert name("data.source=scenes") == "knn_dino (modified: data.source=scenes)"
    for unchanged in (
        "data.source=folder:/mnt/in1k", "data.source=webdataset:/d/in1k-{split}-{000..127}.tar",
        "features.batch=7", "bank_chunk=9", "temperature=0.07", "ks=[10,20,100,200]",
    ):  # fmt: skip
        assert name(unchanged) == "knn_dino"
    own = tmp_path / "own.yaml"
    own.write_text("name: knn_dino\nks: [5]\n")
    assert name(file=own) == "knn_dino (modified: ks=[5])"
    own.write_text("name: linear_mae\nks: [5]\n")  # the name of another kind's protocol
    assert name(file=own) == "linear_mae"
    own.write_text("name: mine\nks: [5]\n")
    assert name(file=own) == "mine"
    own.write_text("name: knn_dino\nprotocol_version: 7\n")
    assert name(file=own) == "knn_dino (modified: protocol_version=7)"
    own.write_text("name: mine\nks: [5]\n")
    assert name("shots=1", file=own) == "mine (modified: shots=1)"


def test_results_of_different_measurements_never_share_a_file(tmp_path: Path) -> None:
    folders = {
        result_folder(protocol, digest * 64, seed)
        for protocol in ("knn", "knn (modified: ks=[5])", "knn (modified: ks=[6])")
        for digest in "ab"
        for seed in (0, 1)
    }
    assert len(folders) == 12
    assert result_folder("knn", "ab" * 32, 3) == Path("results/knn/abababababab-seed3")
    assert result_folder("knn", "ab" * 32, 3, Path("/r")) == Path("/r/knn/abababababab-seed3")

    assert result_folder("knn", "ab" * 32, 3, version=2) == Path("results/knn-v2/abababababab-seed3")
    assert result_folder("knn (modified: ks=[5])", "a", 0, version=2) != result_folder("knn (modified: ks=[5])", "a", 0)

    path = tmp_path / "result.json"
    assert conflicting_result(path, "knn", "a", 0, ["x", "y"]) == ""
    parts = {"bank": {"digest": "x"}, "queries": {"digest": "y"}}
    path.write_text(json.dumps({"protocol": "knn", "checkpoint": {"backbone_sha256": "a"}, "seed": 0, "data": parts}))
    assert conflicting_result(path, "knn", "a", 0, ["y", "x"]) == ""
    refused = conflicting_result(path, "knn", "a", 1, ["x", "z"])
    assert all(part in refused for part in (str(path), "knn", "seed 0", ": seed, data)"))
    assert ": protocol, backbone)" in conflicting_result(path, "knn (modified: k)", "b", 0, ["x", "y"])
    assert ": protocol_version)" in conflicting_result(path, "knn", "a", 0, ["x", "y"], version=2)
    path.write_text("[]")
    assert str(path) in conflicting_result(path, "knn", "a", 0, [])
