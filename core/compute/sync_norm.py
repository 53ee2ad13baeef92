"""Batch norm whose statistics are shared by all processes: torch's on GPUs, a gloo version on CPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from core.distributed import in_group


class _SumOverRanks(torch.autograd.Function):
    """All-reduce whose gradient is an all-reduce: each rank's loss depends on the statistics of all ranks."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def sum_with_gradient(values: Tensor) -> Tensor:
    """Sum over ranks through which gradients flow; the same tensor for a single process."""
    return _SumOverRanks.apply(values) if in_group() else values


class GlooBatchNorm(nn.Module):
    """Batch norm over the batches of all ranks, on any device whose backend can all-reduce.

    torch.nn.SyncBatchNorm refuses CPU tensors. Ranks must hold equally many elements per channel. Statistics and
    running values are those of one process that sees the joined batch (biased variance to normalise, unbiased to
    track). Names of parameters and buffers are those of nn.BatchNorm*d.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        assert norm.track_running_stats
        assert norm.momentum is not None
        self.eps, self.momentum = norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        self.num_features = norm.num_features
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)
        self.register_buffer("num_batches_tracked", norm.num_batches_tracked)
        # timm's norms may hold the dropout and activation behind them.
        self.drop, self.act = getattr(norm, "drop", nn.Identity()), getattr(norm, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, …] -> the same shape."""
        return self.act(self.drop(self._normalised(x)))

    def _normalised(self, x: Tensor) -> Tensor:
        if not self.training or not in_group():
            if self.training:
                self.num_batches_tracked.add_(1)
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
            )
        over = [dim for dim in range(x.ndim) if dim != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        world = dist.get_world_size()
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = _SumOverRanks.apply(values.mean(over)) / world
        centred = values - mean.view(shape)
        variance = _SumOverRanks.apply(centred.square().mean(over)) / world
        with torch.no_grad():
            count = x.numel() // x.shape[1] * world
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        normalised = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(x.dtype)


def synchronise_norms(module: nn.Module, device: torch.device) -> nn.Module:
    """Replaces every batch norm of `module` by a synchronised one, keeping names, values and fused activations."""
    if device.type == "cuda":
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, GlooBatchNorm(child))
        else:
            synchronise_norms(child, device)
    return module
