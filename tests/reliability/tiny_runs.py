"""A pre-training run of a second, for tests that break it: a ViT with stochastic depth and batch norms in its heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch

from core.checkpoints import load_training_state, training_states
from core.config import load_config, save_config
from core.data.open import open_images
from core.distributed import Processes
from pretrain.config import PretrainConfig
from pretrain.monitoring.monitor import open_monitor
from pretrain.trainer import train

ALONE = Processes(0, 1, torch.device("cpu"))
_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


def write_images(root: Path) -> Path:
    """24 JPEGs of smooth noise, 48 × 40 px, in two class folders below train and val."""
    rng = np.random.default_rng(0)
    for folder in (root / split / name for split in ("train", "val") for name in ("cat", "dog")):
        folder.mkdir(parents=True)
        for number in range(6):
            coarse = PIL.Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
            coarse.resize((48, 40), PIL.Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=95)
    return root


def tiny(images: Path, *overrides: str) -> PretrainConfig:
    """4 epochs of 2 steps, a line of metrics for each step."""
    return load_config(
        PretrainConfig,
        None,
        [
            "batch=6", "epochs=4", "schedule.warmup_epochs=1", "drop_path=0.3", "checkpoint.log_steps=1",
            f"data.source=folder:{images}", "backbone.name=vit_tiny_patch16_224", f"backbone.args={_VIT}",
            "projector.widths=[16, 8]", "predictor.widths=[16, 8]",
            "views={global: {count: 2, size: 32}, local: {count: 1, size: 16, photometric: [{blur_kernel: 9}]}}",
            "optim={name: adamw, lr: 0.05, weight_decay: 0.1, clip: 0.5}", *overrides,
        ],
    )  # fmt: skip


def write_recipe(path: Path, images: Path, *overrides: str) -> Path:
    """The recipe as a file for the command line."""
    save_config(tiny(images, *overrides), path)
    return path


def run_here(config: PretrainConfig, out: Path, workers: int = 0) -> dict[str, Any]:
    """Trains in this process; the last state."""
    monitor, _ = open_monitor(config, ALONE, workers)
    train(config, out, open_images(config.data, "pretrain", config.seed), ALONE, workers, monitor)
    return last_state(out)


def last_state(out: Path) -> dict[str, Any]:
    return load_training_state(training_states(out / "checkpoints")[-1])


def metrics(out: Path) -> list[dict[str, Any]]:
    """All lines; a torn one raises."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def leaves(value: Any) -> list[Any]:
    """All leaves of nested dicts and lists, in order."""
    if isinstance(value, dict):
        return [leaf for key in value for leaf in leaves(value[key])]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def same_bits(left: Any, right: Any) -> bool:
    """Whether two states hold the same tensors and values in the same places."""
    pairs = list(zip(leaves(left), leaves(right), strict=True))
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)
