"""Weights for tests of foreign checkpoints: every tensor random, and what their key layouts have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
State = dict[str, Tensor]


def trained(model: nn.Module, seed: int) -> nn.Module:
    """Every tensor of the model random: no layer is left in its special initial state."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(seed)
        elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(0, 0.05, generator=generator)
    return model.eval()


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def mlp(prefix: str) -> State:
    return {f"{prefix}.0.weight": torch.randn(4, 4), f"{prefix}.1.running_mean": torch.randn(4)}
