"""evaluate/transfer_sets.py over small sets: own metrics, killed and resumed, one process and two."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier

from core.config import load_config
from core.distributed import Processes, init_distributed
from core.errors import run_entry_point
from evaluate.common.protocol import full_name
from evaluate.probes.features.cache import CachedFeatures
from evaluate.probes.knn.search import open_engine
from evaluate.probes.linear import training
from evaluate.probes.transfer.probe import PROBE
from evaluate.probes.transfer.protocol import TransferConfig, knn_scores, metric_of
from evaluate.transfer_sets import main
from tests.small_sets import make_eurosat, make_pets
from tests.torchrun import ROOT, torchrun


@pytest.fixture
def given(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))
    make_eurosat(tmp_path)
    make_pets(tmp_path)
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\nfeatures: {transform: {resize: 36, crop: 32}}\nlrs: [0.01, 0.1]\nepochs: 3\nks: [1, 3]\n"
    )
    backbone = "timm:resnet18(channels=[8,8,16,24], stem=small)"
    sets = [f"eurosat:{tmp_path}", f"pets:{tmp_path}", f"folder:{image_folder}"]
    return ["--ckpt", backbone, "--config", str(path), "--workers", "0", "--sets", ",".join(sets)]


def results(folder: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))]
    return {result["protocol"]: result for result in found}


def run(monkeypatch: pytest.MonkeyPatch, *given: str) -> None:
    monkeypatch.setattr(sys, "argv", ["transfer_sets.py", *given])
    main()


def test_every_set_has_its_result_and_two_processes_equal_one(
    given: list[str], tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    run(monkeypatch, *given, "--out", str(tmp_path / "one"))
    one = results(tmp_path / "one")
    assert set(one) == {"own on eurosat", "own on pets", f"own on folder:{image_folder}/train"}
    metrics = {name: result["metrics"] for name, result in one.items()}
    assert metrics["own on pets"]["metric"] == "mean_per_class"
    assert metrics["own on eurosat"]["metric"] == "top1"
    for found in metrics.values():
        assert found["linear"] == max(head[found["metric"]] for head in found["heads"])
        assert found["knn"] == max(row[found["metric"]] for row in found["neighbours"])
    shown = capsys.readouterr().out
    assert f"{metrics['own on eurosat']['linear']:.2f} (lr" in shown
    mean = np.mean([found["linear"] for found in metrics.values()])
    assert f"mean linear: {mean:.2f}" in shown

    done = torchrun(ROOT / "evaluate/transfer_sets.py", *given, "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    two = results(tmp_path / "two")
    assert {name: result["metrics"] for name, result in two.items()} == metrics


def test_a_killed_run_measures_only_what_is_left(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, validated = training.validate, []

    def killed_in_the_second_set(*arguments: Any) -> Any:
        validated.append(arguments)
        if len(validated) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "validate", killed_in_the_second_set)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, *given, "--out", str(tmp_path / "out"))
    assert set(results(tmp_path / "out")) == {"own on eurosat"}
    run(monkeypatch, *given, "--out", str(tmp_path / "out"))
    assert len(results(tmp_path / "out")) == 3
    assert len(validated) == 5 + 2 + 3  # two epochs of the second set are left, and the third set


def test_knn_scores_equal_scikit_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(key, raising=False)
    rng = np.random.default_rng(0)

    def features(count: int) -> CachedFeatures:
        labels = np.minimum(rng.geometric(0.4, count) - 1, 4)
        values = (rng.standard_normal((count, 12)) + 1.2 * centres[labels]).astype(np.float32)
        return CachedFeatures(values, np.arange(count), labels, np.arange(count), (), Path())

    centres = rng.standard_normal((5, 12))
    train, val = features(400), features(300)
    processes: Processes = init_distributed("cpu")
    found = knn_scores(train, val, 5, TransferConfig(ks=(5, 20), temperature=0.1), open_engine(processes))
    for row in found:
        reference = KNeighborsClassifier(
            row["k"], metric="cosine", algorithm="brute", weights=lambda distances: np.exp((1 - distances) / 0.1)
        ).fit(train.values, train.labels)
        predicted = reference.predict(val.values)
        assert row["top1"] == pytest.approx(100 * (predicted == val.labels).mean(), abs=1e-9)
        assert row["mean_per_class"] == pytest.approx(100 * balanced_accuracy_score(val.labels, predicted), abs=1e-9)
    assert [row["k"] for row in found] == [5, 20]


def test_every_protocol_loads_under_its_own_name() -> None:
    for file in ROOT.glob("configs/evaluate/transfer_*.yaml"):
        assert full_name(load_config(TransferConfig, file), file, PROBE.performance_keys) == file.stem
    means = ("flowers102", "pets", "aircraft", "caltech101")
    assert all(metric_of(f"{kind}:/data") == "mean_per_class" for kind in means)
    assert {metric_of(source) for source in ("food101:/data", "folder:/data", "scenes")} == {"top1"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sets", "nowhere:/data"], "'nowhere:/data'"),
        (["--sets", "eurosat:/nowhere"], "/nowhere"),
        (["ks=[]"], "ks"),
    ],
)
def test_mistakes(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    more: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["transfer_sets.py", "--out", str(tmp_path), *given, *more])
    with pytest.raises(SystemExit) as stopped:
        run_entry_point(main)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
