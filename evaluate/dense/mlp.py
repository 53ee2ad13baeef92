"""Small networks on stored features: standardised inputs, two hidden layers, AdamW; deterministic on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.config import check_at_least_one


@dataclass(frozen=True)
class MlpConfig:
    width: int = 512
    """Width of both hidden layers."""
    epochs: int = 30
    """Passes over the training data."""
    lr: float = 1e-3
    """Learning rate of AdamW."""
    batch: int = 1024
    """Rows per step; all, where there are fewer."""

    def __post_init__(self) -> None:
        check_at_least_one(self, "width", "epochs", "batch")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, not {self.lr}")


def standardised(train: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Rows [N, D] by mean and deviation of the training rows; constant columns become 0."""
    mean, deviation = train.mean(0), train.std(0, unbiased=False)
    factor = torch.where(deviation > 1e-6 * mean.abs().clamp(min=1e-30), 1 / deviation, torch.zeros(()))
    return tuple((rows - mean) * factor for rows in (train, *others))


def train_mlp(
    inputs: Tensor,
    targets: Tensor,
    outputs: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    config: MlpConfig,
    seed: int,
) -> nn.Module:
    """Network [.., D] -> [.., outputs] trained on inputs [N, …, D] and targets [N, …], in evaluation mode."""
    width = config.width
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(inputs.shape[-1], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)
        )
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.lr)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(config.epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(config.batch):
            optimiser.zero_grad(set_to_none=True)
            loss(network(inputs[rows]), targets[rows]).backward()
            optimiser.step()
    return network.eval()
