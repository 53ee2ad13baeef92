"""Pre-training on a GPU: the CPU's losses and gradients, no wait for the device within a step, resume, precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from core.config import load_config
from core.data.broken import BrokenImages
from core.data.open import open_images
from core.distributed import Processes
from pretrain.build_losses import open_views
from pretrain.config import PretrainConfig
from pretrain.losses.base import Progress
from pretrain.method import Method
from pretrain.monitoring.metrics import StepMetrics
from pretrain.optimisers import Freezer, build_optimiser, clip_gradients
from pretrain.trainer import train
from pretrain.views.collate import Batch, collate
from pretrain.views.on_device import parameters_of, views_on_device
from tests.pretrain.losses.tiny_losses import DINO, IBOT, SELFPATCH

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact_products")]

OBJECTIVES = {
    "byol": ["objective.name=byol"],
    "simsiam": ["objective.name=simsiam", "target.kind=stop_gradient"],
    "mocov3": ["objective={name: mocov3, temperature: 0.2}"],
}
BACKBONES = {
    "resnet": ["backbone={name: resnet18, args: {channels: [16, 16, 32, 32]}, stem: small}"],
    "vit": [
        "backbone={name: vit_tiny_patch16_224, "
        "args: {img_size: 32, patch_size: 8, embed_dim: 48, depth: 2, num_heads: 2}}"
    ],
}

OF_IMAGES = [
    "objective={name: simclr, temperature: 0.5}", "target.kind=none", "compute.backward=packed", "predictor={}",
    "views={global: {count: 2, size: 32, photometric: [{blur_kernel: 9}]}, "
    "turned: {count: 1, size: 18, photometric: [{blur_kernel: 9}]}, "
    "part: {count: 2, size: 18, placement: apart, photometric: [{blur_kernel: 9}]}}",
    "auxiliary={spatial_prediction: {view: part, options: {hidden: 8}}, "
    "rotation: {view: turned, options: {hidden: [8], dropout: 0}}, "
    "jigsaw: {view: turned, options: {tile_width: 6, hidden: 8, dropout: 0}}}",
]  # fmt: skip
SCATTERING = [
    "backbone={name: scatsimclr8, args: {scales: 2, angles: 4}}",
    "views={global: {count: 2, size: 32, photometric: [{blur_kernel: 9}]}}",
]
OF_TOKENS = [
    "projector={}", "predictor={}", "views={global: {count: 2, size: 32, photometric: [{blur_kernel: 9}]}, "
    "local: {count: 2, size: 24, photometric: [{blur_kernel: 9}]}}",
]  # fmt: skip
LOSSES = {
    "simclr, position, rotation, jigsaw": [*BACKBONES["resnet"], *OF_IMAGES],
    "dino": [*BACKBONES["vit"], *OF_TOKENS, *DINO],
    "ibot": [*BACKBONES["vit"], *OF_TOKENS, *IBOT],
    "selfpatch": [*OF_TOKENS, *SELFPATCH],
    "scattering": [*OF_IMAGES[:4], *SCATTERING],
}


def recipe(images: Path, *overrides: str) -> PretrainConfig:
    return load_config(
        PretrainConfig,
        None,
        [
            "batch=8", "epochs=3", "schedule.warmup_epochs=1", f"data.source=folder:{images}",
            "projector.widths=[32, 16]", "predictor.widths=[32, 16]", "checkpoint.log_steps=1",
            "views={global: {count: 2, size: 32, photometric: [{blur_kernel: 9}]}, "
            "local: {count: 2, size: 16, photometric: [{blur_kernel: 9}]}, "
            "cutout: {count: 1, size: 32, transform: cutout, photometric: [{blur_kernel: 9}]}}", *overrides,
        ],
    )  # fmt: skip


def batch_of(config: PretrainConfig) -> Batch:
    images = open_images(config.data, "pretrain", 0)
    views = open_views(images, config)
    return collate([views[0, position] for position in range(config.batch)])


def step(config: PretrainConfig, batch: Batch, device: str) -> tuple[dict[str, float], list[torch.Tensor]]:
    torch.manual_seed(0)
    method = Method(config, torch.device(device))
    views = views_on_device(batch, config, torch.device(device), method.layout)
    losses = method.backward(views, parameters=parameters_of(batch))
    gradients = [parameter.grad.cpu() for parameter in method.online.parameters() if parameter.grad is not None]
    return {name: loss.item() for name, loss in losses.items()}, gradients


@pytest.mark.parametrize("backward", ["per_view", "packed"])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_and_gradients_are_the_cpus(image_folder: Path, objective: str, backbone: str, backward: str) -> None:
    config = recipe(image_folder, *OBJECTIVES[objective], *BACKBONES[backbone], f"compute.backward={backward}")
    same_on_both(config)


@pytest.mark.parametrize("name", LOSSES)
def test_other_losses_and_their_gradients_are_the_cpus(image_folder: Path, name: str) -> None:
    same_on_both(recipe(image_folder, *LOSSES[name]))


def same_on_both(config: PretrainConfig) -> None:
    batch = batch_of(config)
    (expected, by_cpu), (losses, by_gpu) = (step(config, batch, device) for device in ("cpu", "cuda"))
    assert losses == pytest.approx(expected, rel=1e-4, abs=1e-5)
    whole = torch.cat([gradient.flatten() for gradient in by_cpu])
    difference = torch.cat([gradient.flatten() for gradient in by_gpu]) - whole
    assert difference.norm() / whole.norm() < 5e-3


@pytest.mark.parametrize("optimiser", ["lars", "sgd", "adamw"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_step_never_waits_for_the_device(image_folder: Path, objective: str, optimiser: str) -> None:
    never_waits(recipe(image_folder, *OBJECTIVES[objective], *BACKBONES["resnet"], f"optim.name={optimiser}"))


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_of_another_loss_never_waits_for_the_device(image_folder: Path, name: str) -> None:
    never_waits(recipe(image_folder, *LOSSES[name], "optim={name: adamw, clip: 1.0}"))


def never_waits(config: PretrainConfig) -> None:
    batch, device = batch_of(config), torch.device("cuda")
    method = Method(config, device)
    update = build_optimiser(method.online, config.optim, 0.01)
    parameters, freezer = list(method.online.parameters()), Freezer(method.online, config.optim)
    log = StepMetrics(method.terms, Processes(0, 1, device), BrokenImages(9, 0.1), config.batch, scaled=False)

    def one_step() -> None:
        method.update_target(0.99)
        on_device = views_on_device(batch, config, device, method.layout)
        progress = Progress(config.epochs - 1, 1, config.epochs)
        losses = method.backward(on_device, parameters=parameters_of(batch), progress=progress)
        freezer.drop_gradients(progress.epoch)
        norm = clip_gradients(parameters, config.optim)
        update.step()
        update.zero_grad()
        log.add(0, losses, norm, batch.broken)
        method.health()

    for _ in range(2):  # libraries set themselves up, which may synchronise
        one_step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        one_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def run(config: PretrainConfig, out: Path) -> list[dict[str, Any]]:
    images = open_images(config.data, "pretrain", config.seed)
    train(config, out, images, Processes(0, 1, torch.device("cuda")), workers=1)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_trains_and_stays_near_fp32(image_folder: Path, tmp_path: Path, precision: str) -> None:
    exact = run(recipe(image_folder, *BACKBONES["resnet"]), tmp_path / "exact")
    lines = run(recipe(image_folder, *BACKBONES["resnet"], f"compute.precision={precision}"), tmp_path / precision)
    assert [line["step"] for line in lines] == [line["step"] for line in exact]
    assert lines[0]["loss"] == pytest.approx(exact[0]["loss"], rel=0.02)
    assert all(line["loss"] == pytest.approx(line["loss"]) for line in lines), "no loss is NaN"


def test_a_run_resumes_on_the_gpu(image_folder: Path, tmp_path: Path) -> None:
    whole = run(recipe(image_folder, *BACKBONES["vit"]), tmp_path / "whole")
    part = tmp_path / "part"
    run(recipe(image_folder, *BACKBONES["vit"]), part)
    for state in sorted((part / "checkpoints").glob("*.pt"))[1:]:
        state.unlink()
    resumed = run(recipe(image_folder, *BACKBONES["vit"]), part)
    assert [line["step"] for line in resumed] == [line["step"] for line in whole]
    assert resumed[-1]["loss"] == pytest.approx(whole[-1]["loss"], rel=1e-3)
