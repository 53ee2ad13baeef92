"""Run under torchrun by test_processes.py: gradients of one step, this rank holding its part of a fixed batch."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from core.config import load_config
from core.distributed import average_gradients, init_distributed, sum_over_ranks
from pretrain.config import PretrainConfig
from pretrain.method import Method

BATCH = 8
RECIPE = [
    "batch=8", "epochs=20", "schedule.warmup_epochs=0",
    "backbone={name: resnet18, args: {channels: [8, 8, 8, 16], layers: [1, 1, 1, 1]}, stem: small}",
    "projector.widths=[16, 8]", "predictor.widths=[16, 8]", "compute.sync_bn=true",
    "views={global: {count: 2, size: 32}, local: {count: 1, size: 16, photometric: [{blur_kernel: 9}]}}",
]  # fmt: skip
OBJECTIVES = {
    "byol": ["objective.name=byol", "views.cutout={count: 1, size: 32, transform: cutout}"],
    "simsiam": ["objective.name=simsiam", "target.kind=stop_gradient"],
    "mocov3": ["objective={name: mocov3, temperature: 0.2}"],
    "dino": [
        "projector={}",
        "predictor={}",
        "objective={name: dino, options: {head: {hidden: 16, layers: 2, bottleneck: 8, prototypes: 12}}}",
    ],
    "simclr": [
        "predictor={}",
        "objective={name: simclr, temperature: 0.5}",
        "target.kind=none",
        "compute.backward=packed",
        "views={global: {count: 2, size: 32}, part: {count: 2, size: 16, photometric: [{blur_kernel: 9}],"
        " placement: apart}}",
        "auxiliary={spatial_prediction: {view: part, options: {hidden: 8}}, rotation: {weight: 0.3, options:"
        " {hidden: [8], dropout: 0}}}",
    ],
    "mocov3_packed": ["objective={name: mocov3, temperature: 0.2}", "compute.backward=packed"],
}


def gradients(overrides: list[str], rank: int, world: int) -> tuple[dict[str, torch.Tensor], float]:
    """Averaged gradients, running statistics after the step, and L of the global batch."""
    torch.manual_seed(0)
    method = Method(load_config(PretrainConfig, None, RECIPE + overrides), torch.device("cpu"), rank)
    for network in [*method.networks(), *method.losses().values()]:
        network.double()  # leaves no room for rounding to hide a wrong factor
    generator = torch.Generator().manual_seed(1)
    part = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    views = {
        name: [
            torch.randn(BATCH, 3, view.size, view.size, generator=generator).double()[part] for _ in range(view.count)
        ]
        for name, view in method.config.views.items()
    }
    rng = np.random.default_rng(0)
    boxes = {name: [rng.uniform(5, 20, (BATCH, 4)).astype(np.float32)[part] for _ in of] for name, of in views.items()}
    flip = np.arange(BATCH)[part] % 2 == 0
    parameters = {name: [{"box": box, "flip": flip} for box in of_type] for name, of_type in boxes.items()}
    losses = method.backward(views, None, parameters)
    average_gradients(method.online.parameters())
    found = {name: parameter.grad for name, parameter in method.online.named_parameters()}
    found |= {name: buffer for name, buffer in method.online.named_buffers() if "running" in name}
    for loss in method.losses().values():
        found |= loss.memory()
    return found, float(sum_over_ranks(torch.stack(list(losses.values())).sum())) / world


if __name__ == "__main__":
    processes = init_distributed("cpu")
    result = {
        name: gradients(overrides, processes.rank, processes.world_size) for name, overrides in OBJECTIVES.items()
    }
    if processes.is_main:
        torch.save(result, sys.argv[1])
