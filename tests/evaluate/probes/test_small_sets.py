"""Probes on sets smaller than their protocols assume: the existing images are used, and every change is reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from sklearn.neighbors import KNeighborsClassifier

from core.data.open import DataConfig, open_images
from core.data.order import fitting_batch
from evaluate.common.registry import descriptions
from evaluate.probes.base import Probe
from evaluate.probes.knn.protocol import fitting_ks
from evaluate.probes.main import probe_main

TINY = "timm:resnet18(channels=[8,8,8,16],stem=small)"
SMALL = ("features.transform.resize=8", "features.transform.crop=8")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of three training images and one validation image, all of other sizes."""
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, images in (("train", 3), ("valid", 1)):
        for label, name in enumerate(("red fox", "wolf, grey #2")):
            folder = tmp_path / "my pets" / split / name
            folder.mkdir(parents=True)
            for number in range(images):
                pixels = rng.integers(0, 99, (9 + number, 9 + number, 3), dtype=np.uint8)
                pixels[..., label] += 120
                PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "my pets"


def measured(kind: str, root: Path, *more: str, ckpt: str = "pixels") -> dict[str, Any]:
    probe = descriptions()[kind]
    assert isinstance(probe, Probe)
    given = ["--ckpt", ckpt, "--data", f"folder:{root}", "--workers", "0", "--device", "cpu", *SMALL, *more]
    probe_main(probe, given)
    (path,) = Path("results").rglob("result.json")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def test_knn(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = measured("knn", root)
    plan = capsys.readouterr().out
    assert "adapted   k in 6, as the bank has 6 images" in plan
    assert document["protocol"] == "knn_dino (modified: features.transform.resize=8, features.transform.crop=8)"
    assert document["settings"]["ks"] == [6]
    assert document["settings"]["notes"] == ["k in 6, as the bank has 6 images"]
    train, val = (open_images(DataConfig(f"folder:{root}"), split, 0) for split in ("train", "val"))
    rows = [np.stack([np.asarray(s.image(i).resize((8, 8))).ravel() for i in range(len(s))]) for s in (train, val)]
    labels = [[s.label(i) for i in range(len(s))] for s in (train, val)]
    unit = [row / np.linalg.norm(row, axis=1, keepdims=True) for row in map(np.float64, rows)]
    voted = KNeighborsClassifier(6, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07)).fit(unit[0], labels[0])
    assert document["metrics"]["top1"] == 100 * voted.score(unit[1], labels[1])


@pytest.mark.parametrize("kind", ["linear", "finetune"])
def test_all_images_make_one_batch(root: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    (root.parent / "own.yaml").write_text(f"name: own\nkind: {kind}\nepochs: 1\nbatch: 512\n")
    document = measured(kind, root, "--config", str(root.parent / "own.yaml"), ckpt=TINY)
    assert "adapted   batch 6 instead of 512, as there are 6 training images" in capsys.readouterr().out
    assert document["settings"]["batch"] == 6
    assert any("batch 6 instead of 512" in note for note in document["settings"]["notes"])


def test_what_fits() -> None:
    assert fitting_ks((10, 20, 200), 20) == (10, 20)
    assert fitting_ks((10, 20), 3) == (3,)
    assert [fitting_batch(512, images, 4) for images in (513, 512, 11, 4, 3)] == [512, 512, 8, 4, 512]
