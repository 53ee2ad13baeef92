"""A small pre-training recipe that ends in seconds, and its states compared bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from core.checkpoints import load_training_state, training_states
from core.config import load_config, save_config
from core.data.open import open_images
from core.distributed import Processes
from pretrain.config import PretrainConfig
from pretrain.method import Method
from pretrain.monitoring.monitor import open_monitor
from pretrain.trainer import train

ALONE = Processes(0, 1, torch.device("cpu"))
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}


def recipe(image_folder: Path, *overrides: str) -> PretrainConfig:
    """A ViT with stochastic depth, so that the state of torch's generator matters; 4 epochs of 2 steps."""
    return load_config(
        PretrainConfig,
        None,
        [
            "batch=6", "epochs=4", "schedule.warmup_epochs=1", "drop_path=0.3",
            f"data.source=folder:{image_folder}", "backbone.name=vit_tiny_patch16_224",
            f"backbone.args={VIT}", "projector.widths=[16, 8]", "predictor.widths=[16, 8]",
            "views={global: {count: 2, size: 32}, local: {count: 1, size: 16, photometric: [{blur_kernel: 9}]}}",
            "optim={name: adamw, lr: 0.05, weight_decay: 0.1, clip: 0.5}", *overrides,
        ],
    )  # fmt: skip


def run(config: PretrainConfig, out: Path) -> dict[str, Any]:
    monitor, _ = open_monitor(config, ALONE, workers=0)
    train(config, out, open_images(config.data, "pretrain", config.seed), ALONE, 0, monitor)
    return load_training_state(training_states(out / "checkpoints")[-1])


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key in value for leaf in leaves(value[key])]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


class Killed(BaseException):
    """Stands for the power going off between two steps."""


def run_until_killed(config: PretrainConfig, out: Path, steps: int, error: type[BaseException] = Killed) -> None:
    """Trains for `steps` steps; `error` ends the next one before its gradients."""
    backward, done = Method.backward, []

    def dying(self: Method, *arguments: Any) -> Any:
        if len(done) == steps:
            raise error
        done.append(1)
        return backward(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Method, "backward", dying)
        with pytest.raises(error):
            run(config, out)


def assert_equal_bits(left: dict[str, Any], right: dict[str, Any]) -> None:
    pairs = list(zip(leaves(left), leaves(right), strict=True))
    assert len(pairs) > 100
    for a, b in pairs:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


RESNET = "backbone={name: resnet18, args: {channels: [8, 8, 8, 16], layers: [1, 1, 1, 1]}, stem: small}"


def write_recipe(path: Path, image_folder: Path) -> Path:

    save_config(recipe(image_folder, "epochs=400", "checkpoint.log_steps=1"), path)
    return path
