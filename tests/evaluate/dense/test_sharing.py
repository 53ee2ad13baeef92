"""Probes that read the same images under the same transform share one extraction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.features import extract_features
from evaluate.dense.corloc.probe import PROBE as CORLOC
from evaluate.dense.dense_knn.probe import PROBE as DENSE_KNN
from evaluate.dense.depth.probe import PROBE as DEPTH
from evaluate.dense.overcluster.probe import PROBE as OVERCLUSTER
from evaluate.dense.segment_linear.probe import PROBE as SEGMENT
from evaluate.probes.features import cache
from evaluate.probes.knn.probe import PROBE as KNN
from evaluate.probes.linear.probe import PROBE as LINEAR
from tests.evaluate.dense.small import SCENES, VIT, measure

STEPS = ["heads.iterations=4", "heads.warmup=0", "heads.batch=4"]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Images of each extraction, as they happen."""
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))
    counts: list[int] = []

    def counting(model: Any, backbone: Any, images: Any, *rest: Any, **more: Any) -> Any:
        counts.append(len(images))
        return extract_features(model, backbone, images, *rest, **more)

    monkeypatch.setattr(cache, "extract_features", counting)
    return counts


def test_five_probes_of_the_same_maps_read_each_image_once(read: list[int], tmp_path: Path) -> None:
    for number, (probe, more) in enumerate([
        (SEGMENT, STEPS), (DENSE_KNN, ["k=3"]), (OVERCLUSTER, ["clusters=[9]", "seeds=1"]),
        (DEPTH, [*STEPS, "bins.count=8"]), (CORLOC, []),
    ]):  # fmt: skip
        measure(probe, tmp_path / str(number), *SCENES, *more, ckpt=VIT)
    assert read == [16, 8], "training and test scenes, by the first probe alone"


def test_knn_and_linear_read_each_image_once_and_the_neighbours_are_those_of_a_fresh_extraction(
    read: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = ["features.transform.resize=32", "features.transform.crop=32"]
    size = [*SCENES[:5], *view]
    linear = measure(LINEAR, tmp_path / "linear", *size, "epochs=1", "batch=8", ckpt=VIT, protocol="linear_scenes_64px")
    shared = measure(KNN, tmp_path / "shared", *size, "ks=[3]", ckpt=VIT, protocol="knn_scenes_64px")
    assert linear["epochs"] == 1
    assert read == [8, 16]
    monkeypatch.setattr("evaluate.probes.knn.features.SHARED_BYTES", 0)
    fresh = measure(KNN, tmp_path / "fresh", *size, "ks=[3]", ckpt=VIT, protocol="knn_scenes_64px")
    assert fresh == shared
    documents = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("shared", "fresh")]
    assert documents[0]["data"] == documents[1]["data"]
    assert np.isfinite(shared["top1"])
