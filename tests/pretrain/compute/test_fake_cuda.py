"""Steps of every recipe, loss and view transform on fake CUDA tensors: nothing stays on the CPU, nothing waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from core.compute.shapes import shapes_only
from core.config import load_config
from core.data.broken import BrokenImages
from core.data.open import open_images
from core.distributed import Processes
from pretrain import losses, transforms
from pretrain.build_losses import open_views
from pretrain.config import PretrainConfig
from pretrain.losses.base import Auxiliary, Objective, Progress
from pretrain.method import Method
from pretrain.monitoring.metrics import StepMetrics
from pretrain.optimisers import Freezer, build_optimiser, clip_gradients
from pretrain.views.collate import Batch, collate
from pretrain.views.on_device import parameters_of, views_on_device
from tests.pretrain.compute.fake_cuda import WaitsForTheDevice, fake_cuda, no_waiting

FOLDER = Path(__file__).resolve().parents[3] / "configs/pretrain"
RECIPES = {path.stem: load_config(PretrainConfig, path) for path in sorted(FOLDER.glob("*.yaml"))}
DEVICE = torch.device("cuda")
SHALLOW = {"vit": {"depth": 1}, "resnet": {"layers": [1, 1, 1, 1]}, "scatsimclr8": {}, "scatsimclr30": {}}


def open_recipe(path: Path | None, image_folder: Path, *overrides: str) -> PretrainConfig:
    """A recipe for two small photographs and few blocks, which are alike."""
    few = ["batch=2", f"data.source=folder:{image_folder}"]
    config = load_config(PretrainConfig, path, [*few, *overrides])
    shallow = next(args for start, args in SHALLOW.items() if config.backbone.name.startswith(start))
    few += [f"backbone.args.{key}={value}" for key, value in shallow.items()]
    counts = {name: 1 if name == "local" else 2 for name, view in config.views.items() if view.count > 1}
    few += [f"views.{name}.count={count}" for name, count in counts.items()]
    return load_config(PretrainConfig, path, [*few, *overrides])


def batch_of(config: PretrainConfig) -> Batch:
    views = open_views(open_images(config.data, "pretrain", 0), config)
    return collate([views[0, position] for position in range(config.batch)])


def step(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """All that a step does but for the backward pass; returns the losses from which one would start."""
    batch = batch_of(config)
    ends: list[Tensor] = []
    monkeypatch.setattr(Tensor, "backward", lambda self: ends.append(self))
    # Without a GPU, torch would switch autocast off.
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    with fake_cuda(monkeypatch):
        with unset_fake_temporarily(), shapes_only():  # a constructor may read values
            method = Method(config, DEVICE)
        parameters = list(method.online.parameters())
        optimiser, freezer = build_optimiser(method.online, config.optim, 0.1), Freezer(method.online, config.optim)
        log = StepMetrics(method.terms, Processes(0, 1, DEVICE), BrokenImages(9, 0.1), config.batch, scaled=False)
        with no_waiting():
            method.update_target(0.99)
            on_device = views_on_device(batch, config, DEVICE, method.layout)
            progress = Progress(config.epochs - 1, 1, config.epochs)
            found = method.backward(on_device, None, parameters_of(batch), progress)
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
            freezer.drop_gradients(progress.epoch)
            norm = clip_gradients(parameters, config.optim)
            optimiser.step()
            optimiser.zero_grad()
            log.add(0, found, norm, batch.broken)
            health = method.health()
    assert {tensor.device.type for tensor in [*found.values(), *health.values(), *ends, *parameters]} == {"cuda"}
    assert set(found) == set(method.terms)
    return ends


def check(config: PretrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = step(config, monkeypatch)
    assert ends
    assert all(end.requires_grad and end.dtype == torch.float32 for end in ends)


def covered(name: str) -> bool:
    """True if another recipe has the same losses and comes first, small ones before large ones."""

    def losses_of(config: PretrainConfig) -> tuple[str, set[str]]:
        return config.objective.name, set(config.auxiliary)

    alike = [other for other, config in RECIPES.items() if losses_of(config) == losses_of(RECIPES[name])]
    return name != min(alike, key=lambda other: (not other.startswith("demo"), other))


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * covered(name)) for name in RECIPES])
def test_every_recipe(name: str, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(open_recipe(FOLDER / f"{name}.yaml", image_folder), monkeypatch)


def test_the_recipes_have_every_loss() -> None:
    found: set[str] = set()
    for config in RECIPES.values():
        found |= {config.objective.name, *config.auxiliary}
    assert found == {*losses.names(Objective), *losses.names(Auxiliary)}


@pytest.mark.parametrize("transform", transforms.names())
def test_every_transform(transform: str, image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = "views={global: {count: 2, size: 32, transform: " + transform + "}}"
    config = open_recipe(None, image_folder, views)
    batch = batch_of(config)
    with fake_cuda(monkeypatch), no_waiting():
        found = views_on_device(batch, config, DEVICE, torch.channels_last)
    assert [(view.device.type, view.shape) for view in found["global"]] == [("cuda", (2, 3, 32, 32))] * 2


def read_back(loss: Tensor) -> Any:
    return loss.item()


def branch(loss: Tensor) -> Any:
    return loss if loss > 0 else -loss


def left_behind(loss: Tensor) -> Any:
    return loss + torch.ones(1)


def copied(loss: Tensor) -> Any:
    return loss + torch.tensor([1.0]).to(loss.device)


@pytest.mark.parametrize("fault", [read_back, branch, left_behind, copied, Tensor.cpu, Tensor.nonzero])
def test_faults_are_found(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda(monkeypatch), no_waiting():
        loss = torch.empty((1,), device=DEVICE)
        with pytest.raises((RuntimeError, WaitsForTheDevice)):
            fault(loss)
