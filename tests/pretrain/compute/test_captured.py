"""pretrain/captured.py: a step from a CUDA graph equals the eager one; what it can't do is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from core.compute.shapes import shapes_only
from core.config import load_config
from core.data.open import open_images
from core.distributed import Processes
from core.errors import UserError
from pretrain.captured import EAGER, CapturedPasses
from pretrain.config import PretrainConfig
from pretrain.method import Method
from pretrain.optimisers import build_optimiser, clip_gradients
from pretrain.trainer import train
from tests.pretrain.compute.fake_cuda import copies_noted, fake_cuda
from tests.pretrain.compute.recorded_graph import record_graphs
from tests.pretrain.tiny_run import ALONE

GPU = Processes(0, 1, torch.device("cuda"))
SMALL = [
    "batch=8", "epochs=8", "schedule.warmup_epochs=1", "projector.widths=[32, 16]", "checkpoint.log_steps=1",
    "views={global: {count: 2, size: 32, photometric: [{blur_kernel: 9}]}, "
    "local: {count: 2, size: 16, photometric: [{blur_kernel: 9}]}}",
]  # fmt: skip
RESNET = ["backbone={name: resnet18, args: {channels: [16, 16, 32, 32], layers: [1, 1, 1, 1]}, stem: small}"]
VIT = [
    "backbone={name: vit_tiny_patch16_224, args: {img_size: 32, patch_size: 8, embed_dim: 48, depth: 2, num_heads: 2}}",
    "optim={name: adamw, clip: 0.5}",
]
METHODS = {
    "byol": [*SMALL, *RESNET, "predictor.widths=[32, 16]"],
    "byol, packed, bf16": [
        *SMALL, *RESNET, "predictor.widths=[32, 16]", "compute={backward: packed, precision: bf16}",
    ],
    "simsiam": [*SMALL, *VIT, "predictor.widths=[32, 16]", "objective.name=simsiam", "target.kind=stop_gradient"],
    "mocov3": [*SMALL, *VIT, "predictor.widths=[32, 16]", "objective={name: mocov3, temperature: 0.2}"],
    "simclr": [
        *SMALL, *RESNET, "predictor={}", "objective={name: simclr, temperature: 0.5}", "target.kind=none",
        "views={global: {count: 2, size: 32, photometric: [{blur_kernel: 9}]}}", "compute.backward=packed",
    ],
}  # fmt: skip


@pytest.fixture
def repeatable() -> Iterator[None]:
    """Convolutions that give the same bits each time."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def losses(config: PretrainConfig, device: str, captured: bool, steps: int) -> list[float]:
    """Loss and health of each step."""
    torch.manual_seed(0)
    method = Method(config, torch.device(device))
    optimiser = build_optimiser(method.online, config.optim, 0.05)
    backward = CapturedPasses(method, GPU) if captured else method.backward
    generator = torch.Generator().manual_seed(1)

    def images(size: int) -> torch.Tensor:
        return torch.randn(8, 3, size, size, generator=generator).to(device).contiguous(memory_format=method.layout)

    found = []
    for _ in range(steps):
        views = {name: [images(view.size) for _ in range(view.count)] for name, view in config.views.items()}
        method.update_target(0.9)
        terms = backward(views)
        found.append(float(torch.stack(list(terms.values())).sum()))
        clip_gradients(list(method.online.parameters()), config.optim)
        optimiser.step()
        optimiser.zero_grad()
        found.append(float(method.health()["spread"]))
    return found


@pytest.mark.parametrize("name", ["simsiam", "mocov3", "simclr"])
def test_recorded_passes_have_the_bits_of_eager_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, with a stand-in that records and replays operations as a CUDA graph does."""
    config = load_config(PretrainConfig, None, METHODS[name])
    steps = EAGER + 3
    eager = losses(config, "cpu", False, steps)
    graphs = record_graphs(monkeypatch)
    assert losses(config, "cpu", True, steps) == eager
    assert len(graphs) == 1
    assert len({*eager[::2]}) == steps


@pytest.mark.gpu
@pytest.mark.usefixtures("repeatable")
@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps_have_the_losses_of_eager_ones(name: str) -> None:
    config = load_config(PretrainConfig, None, METHODS[name])
    eager, captured = (losses(config, "cuda", captured, 20) for captured in (False, True))
    assert len({*eager[::2]}) == 20
    assert captured == pytest.approx(eager, rel=1e-5, abs=1e-6)


@pytest.mark.gpu
def test_a_captured_step_never_waits_for_the_device() -> None:
    config = load_config(PretrainConfig, None, METHODS["byol"])
    method = Method(config, GPU.device)
    backward = CapturedPasses(method, GPU)
    views = {
        name: [torch.randn(8, 3, view.size, view.size, device="cuda") for _ in range(view.count)]
        for name, view in config.views.items()
    }
    for number in range(EAGER + 2):
        if number == EAGER + 1:
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
        try:
            backward(views)
            method.online.zero_grad()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_run_with_loader_processes_logs_the_losses_of_an_eager_one(image_folder: Path, tmp_path: Path) -> None:
    found = []
    for captured in ("false", "true"):
        recipe = [*METHODS["mocov3"], f"data.source=folder:{image_folder}", f"compute.cuda_graphs={captured}"]
        config = load_config(PretrainConfig, None, recipe)
        train(config, tmp_path / captured, open_images(config.data, "pretrain", 0), GPU, workers=1)
        found.append((tmp_path / captured / "metrics.jsonl").read_text().splitlines())
    assert len(found[0]) == len(found[1]) > EAGER + 2
    eager, replayed = ([json.loads(line)["loss"] for line in lines] for lines in found)
    assert replayed == pytest.approx(eager, rel=1e-3)


@pytest.mark.parametrize("name", ["byol, packed, bf16", "mocov3", "simclr"])
def test_passes_that_may_be_captured_copy_nothing_to_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph would read the memory of the host again, whatever is in it by then."""
    config = load_config(PretrainConfig, None, [*METHODS[name], "compute.cuda_graphs=true"])
    assert config.objective.loss().STATIC
    monkeypatch.setattr(torch.Tensor, "backward", lambda self: None)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    with fake_cuda(monkeypatch):
        with unset_fake_temporarily(), shapes_only():
            method = Method(config, GPU.device)
        views = {
            name: [torch.empty(2, 3, view.size, view.size, device="cuda") for _ in range(view.count)]
            for name, view in config.views.items()
        }
        with copies_noted() as copies:
            method.backward(views)
            torch.ones(1).to("cuda", non_blocking=True)
    assert len(copies) == 1, "the one of this test"


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["objective.name=dino", "projector={}", "predictor={}"], "objective.name=dino"),
        (["drop_path=0.1"], "drop_path"),
        (["compute.precision=fp16"], "compute.precision"),
        (["compute.compile=true"], "compute.compile"),
        (["compute.checkpointing=true"], "compute.checkpointing"),
        (["auxiliary={rotation: {view: turned}}", "views.turned={count: 1, size: 32}"], "auxiliary"),
    ],
)
def test_settings_that_change_from_step_to_step_are_refused(overrides: list[str], key: str) -> None:
    with pytest.raises(UserError, match=f"cuda_graphs .*{key}"):
        load_config(PretrainConfig, None, [*METHODS["mocov3"], "compute.cuda_graphs=true", *overrides])


@pytest.mark.parametrize("processes", [ALONE, Processes(0, 2, GPU.device)])
def test_a_cpu_and_several_processes_are_refused(processes: Processes) -> None:
    with pytest.raises(UserError, match="cuda_graphs"):
        CapturedPasses(None, processes)  # type: ignore[arg-type]
