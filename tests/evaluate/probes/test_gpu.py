"""Frozen probes on a GPU: the CPU's features, neighbours, heads and logistic regression."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from converters.open import open_backbone
from core.data.open import DataConfig, open_images
from core.distributed import Processes
from core.features import EvalTransformConfig, FeatureConfig, Features, extract_features
from evaluate.probes.accuracy import TopKAccuracy
from evaluate.probes.finetune.probe import PROBE as FINETUNE
from evaluate.probes.knn.protocol import knn_accuracy
from evaluate.probes.knn.search import nearest, open_engine, products_on
from evaluate.probes.linear.head_grid import HeadGrid, HeadOptimConfig
from evaluate.probes.linear.probe import PROBE as LINEAR
from evaluate.probes.logreg.solver import fit_torch
from evaluate.probes.main import probe_main

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact_products")]

CPU, GPU = (Processes(0, 1, torch.device(device)) for device in ("cpu", "cuda"))
MODELS = (
    "timm:resnet18(channels=[16,16,32,32], stem=small)",
    "timm:vit_tiny_patch16_224(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=2)",
)


def features(images: Path, model: str, processes: Processes, **changes: str) -> Features:
    backbone = open_backbone(model, seed=1)
    backbone.model.to(processes.device)
    config = replace(FeatureConfig(EvalTransformConfig(32, 32), batch=5), **changes)
    return extract_features(
        backbone.model, backbone.config, open_images(DataConfig(f"folder:{images}"), "train", 0), config, processes,
        unit=True,
    )  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_features_and_neighbours_are_the_cpus(image_folder: Path, model: str) -> None:
    by_cpu, by_gpu = features(image_folder, model, CPU), features(image_folder, model, GPU)
    np.testing.assert_allclose(by_gpu.values, by_cpu.values, atol=1e-5)
    assert knn_accuracy(by_gpu, by_gpu, GPU, ks=[3]) == knn_accuracy(by_cpu, by_cpu, CPU, ks=[3])


def test_products_on_the_gpu_find_the_neighbours_that_faiss_finds() -> None:
    rng = np.random.default_rng(0)
    bank, queries = (rng.standard_normal((count, 64), np.float32) for count in (3000, 1500))
    similarities, rows = nearest(products_on(torch.device("cuda")), bank, queries, 20, chunk=1024)
    expected, their_rows = nearest(open_engine(CPU), bank, queries, 20)
    np.testing.assert_allclose(similarities, expected, atol=1e-4)
    assert (rows == their_rows).mean() > 0.999  # ties within rounding


@pytest.mark.parametrize("optim", ["sgd", "lars"])
def test_heads_are_the_cpus(optim: str) -> None:
    generator = torch.Generator().manual_seed(0)
    batches = torch.randn(20, 24, 40, generator=generator)
    labels = torch.randint(0, 7, (20, 24), generator=generator)
    trained = []
    for device in ("cpu", "cuda"):
        grid = HeadGrid(((0, 16), (8, 40)), (0.01, 0.1), 7, HeadOptimConfig(optim), 0, torch.device(device))
        for batch, truth in zip(batches.to(device), labels.to(device), strict=True):
            grid.step(batch, truth, 1.0, len(truth))
        trained.append([part.cpu() for index in range(4) for part in grid.head(index)])
    for by_cpu, by_gpu in zip(*trained, strict=True):
        torch.testing.assert_close(by_gpu, by_cpu, rtol=1e-3, atol=1e-5)


def test_logistic_regression_is_the_cpus() -> None:
    generator = torch.Generator().manual_seed(0)
    values, labels = torch.randn(90, 12, generator=generator), torch.arange(90) % 3
    by_cpu, by_gpu = (
        fit_torch(values.double().to(device), labels.to(device), 3, 0.5, 500, 1e-9).logits(values.double().to(device))
        for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(by_gpu.cpu(), by_cpu, rtol=1e-4, atol=1e-5)


def test_ranks_and_accuracies_are_the_cpus() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(60, 9, 3, generator=generator), torch.randint(0, 9, (60,), generator=generator)
    logits[:4, 2] = logits[:4, 5]  # ties
    found = []
    for device in ("cpu", "cuda"):
        hits = TopKAccuracy(3, 9, torch.device(device))
        for part, truth in zip(logits.to(device).split(25), labels.to(device).split(25), strict=True):
            hits.add(part, truth)
        found.append(hits.scores())
    assert found[0] == found[1]


OWN = "name: own\nfeatures: {transform: {resize: 36, crop: 32}}\n"
COMMANDS = {
    "linear": (LINEAR, "lrs: [0.1]\nbatch: 6\nepochs: 3\n"),
    "finetune": (FINETUNE, "lrs: [0.01]\nbatch: 4\nepochs: 2\n"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_whole_command_ends_with_the_cpus_numbers(
    name: str, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe, settings = COMMANDS[name]
    protocol = tmp_path / "own.yaml"
    protocol.write_text(OWN + settings)
    top1 = []
    for device in ("cpu", "cuda"):
        monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / f"cache of {device}"))  # else features are the CPU's
        given = ["--ckpt", MODELS[0], "--config", str(protocol), "--data", f"folder:{image_folder}", "--workers", "0"]
        probe_main(probe, [*given, "--device", device, "--out", str(tmp_path / device)])
        top1.append(json.loads((tmp_path / device / "result.json").read_text())["metrics"]["top1"])
    assert top1[1] == pytest.approx(top1[0], abs=100 / 12 + 0.01), "one image may differ"
