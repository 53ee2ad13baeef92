"""The same seed gives the same bits on the CPU, whatever the number of loader processes and of the hash seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from core.data.open import open_images
from core.data.order import GlobalBatches
from evaluate.common.context import RunContext
from evaluate.probes.training_views import TrainingViewConfig, view_batches
from pretrain.views.collate import collate
from pretrain.views.dataset import Views
from tests.reliability.tiny_runs import ALONE, last_state, metrics, run_here, same_bits, tiny, write_recipe
from tests.torchrun import python

_BACKBONE = "timm:resnet18(channels=[8,8,16,24], stem=small)"


def _digest_of_pretraining(images: Path, workers: int) -> tuple[int, str]:
    config = tiny(images)
    data = open_images(config.data, "pretrain", 3)
    loader = DataLoader(
        Views(data, config.views, 3), batch_sampler=GlobalBatches(12, 4, 3, 3), collate_fn=collate, num_workers=workers
    )
    digest, count = hashlib.sha256(), 0
    for batch in loader:
        for views in batch.views.values():
            for view in views:
                digest.update(view.images.contiguous().numpy().tobytes())
                for name in sorted(view.parameters):
                    digest.update(view.parameters[name].tobytes())
                count += len(view.images)
    return count, digest.hexdigest()


def _digest_of_probes(images: Path, workers: int) -> tuple[int, str]:
    data = open_images(tiny(images).data, "train", 0)
    digest, count = hashlib.sha256(), 0
    batches = view_batches(data, TrainingViewConfig(), 16, GlobalBatches(12, 4, 3, 3), RunContext(ALONE, workers, 3))
    for pixels, labels, _ in batches:
        digest.update(pixels.numpy().tobytes() + labels.numpy().tobytes())
        count += len(pixels)
    return count, digest.hexdigest()


@pytest.mark.parametrize(("digest_of", "views"), [(_digest_of_pretraining, 108), (_digest_of_probes, 36)])
def test_views_do_not_depend_on_the_number_of_loader_processes(image_folder: Path, digest_of, views: int) -> None:
    alone = digest_of(image_folder, 0)
    assert alone[0] == views
    assert digest_of(image_folder, 1) == digest_of(image_folder, 2) == alone


def test_weights_do_not_depend_on_the_number_of_loader_processes(image_folder: Path, tmp_path: Path) -> None:
    states = [run_here(tiny(image_folder), tmp_path / str(workers), workers) for workers in (0, 1, 2)]
    assert same_bits(states[0], states[1])
    assert same_bits(states[0], states[2])
    other = run_here(tiny(image_folder, "seed=1"), tmp_path / "seed")
    assert not torch.equal(other["online"]["projector.0.weight"], states[0]["online"]["projector.0.weight"])


def _twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *command: str) -> list[Path]:
    """Two runs of the same command in processes of their own, whose sets and dicts are ordered differently."""
    outs = []
    for hash_seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", hash_seed)
        monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / f"cache{hash_seed}"))
        outs.append(tmp_path / hash_seed)
        done = python(*command, "--out", str(outs[-1]), "--device", "cpu")
        assert done.returncode == 0, done.stderr
    return outs


def test_pre_training_twice(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = "monitor={every_epochs: 2, k: 3, resize: 32, crop: 32}"
    recipe = write_recipe(tmp_path / "r.yaml", image_folder, monitor)
    first, second = _twice(monkeypatch, tmp_path, "pretrain/run.py", "--config", str(recipe), "--workers", "0")
    assert same_bits(last_state(first), last_state(second))
    lines = [[{**line, "images_per_second": 0} for line in metrics(out)] for out in (first, second)]
    assert lines[0] == lines[1]


@pytest.mark.slow
def test_knn_twice(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["ks=[1,3]", "features.transform.resize=32", "features.transform.crop=32"]
    first, second = _twice(
        monkeypatch, tmp_path, "evaluate/knn.py", "--ckpt", _BACKBONE, "--protocol", "knn_dino", "--data",
        f"folder:{image_folder}", "--workers", "0", *settings,
    )  # fmt: skip
    scores = [json.loads((out / "result.json").read_text()) for out in (first, second)]
    assert scores[0]["metrics"] == scores[1]["metrics"]
    assert scores[0]["checkpoint"] == scores[1]["checkpoint"]


def test_linear_twice(image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.yaml").write_text(
        "name: own\nfeatures: {transform: {resize: 36, crop: 32}}\nlrs: [0.01, 0.1]\nbatch: 6\nepochs: 3\n"
    )
    first, second = _twice(
        monkeypatch, tmp_path, "evaluate/linear.py", "--ckpt", _BACKBONE, "--config", str(tmp_path / "own.yaml"),
        "--data", f"folder:{image_folder}", "--workers", "0", "views=augmented",
    )  # fmt: skip
    heads = [load_file(out / "head.safetensors") for out in (first, second)]
    assert heads[0]["weight"].abs().max() > 0.001
    assert same_bits(heads[0], heads[1])
    scores = [json.loads((out / "result.json").read_text())["metrics"] for out in (first, second)]
    assert scores[0] == scores[1]
