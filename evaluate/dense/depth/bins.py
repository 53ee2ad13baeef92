"""From outputs of a linear head to depths, and the losses that train it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from core.compute.sync_norm import sum_with_gradient
from evaluate.dense.depth.protocol import BinsConfig

_EPSILON = 0.001
_WARM_UP = 100
"""Steps in which the variance is left out of the scale-invariant loss (DINOv2's code)."""

Resize = Callable[[Tensor, int, int], Tensor]


def bin_depths(config: BinsConfig) -> Tensor:
    """Depth of each bin in metres, [count]."""
    low, high = config.range
    if config.spacing == "linear":
        return torch.linspace(low, high, config.count)
    return torch.logspace(torch.tensor(low).log10().item(), torch.tensor(high).log10().item(), config.count)


def to_depths(outputs: Tensor, config: BinsConfig) -> Tensor:
    """[N, count, h, w] -> depth in metres [N, 1, h·upsample, w·upsample].

    Weights of the bins are (ReLU(output) + 0.1) over their sum ("linear" norm of AdaBins, arXiv 2011.14141).
    """
    if config.upsample > 1:
        outputs = functional.interpolate(outputs, scale_factor=config.upsample, mode="bilinear", align_corners=False)
    weights = functional.relu(outputs) + 0.1
    weights = weights / weights.sum(1, keepdim=True)
    return torch.einsum("nkhw,k->nhw", weights, bin_depths(config).to(outputs.device))[:, None]


def depth_losses(config: BinsConfig, gradient_weight: float, resize: Resize) -> Callable[[Tensor, Tensor, int], Tensor]:
    """Loss of each head: the scale-invariant one over the global batch, and the weighted gradient loss.

    With g = ln(ŷ + 0.001) − ln(y + 0.001) over valid pixels: √(Var g + 0.15 · (mean g)²), without the variance in the
    first 100 steps.
    """

    def losses(outputs: Tensor, depth: Tensor, step: int) -> Tensor:
        heads, images = outputs.shape[:2]
        size = depth.shape[-2:]
        found = resize(to_depths(outputs.flatten(0, 1), config), *size)[:, 0].view(heads, images, *size)
        valid = (depth > config.range[0]) & (depth < config.range[1])
        difference = torch.where(valid, torch.log(found + _EPSILON) - torch.log(depth.clamp(min=0) + _EPSILON), 0.0)
        count = sum_with_gradient(valid.sum().to(difference.dtype)).clamp(min=2)
        sums = sum_with_gradient(torch.stack([difference.sum((1, 2, 3)), difference.square().sum((1, 2, 3))]))
        mean = sums[0] / count
        variance = (sums[1] - count * mean**2) / (count - 1)
        inside = 0.15 * mean**2 + (variance if step >= _WARM_UP else 0.0)
        total = inside.clamp(min=1e-12).sqrt()
        if gradient_weight:
            total = total + gradient_weight * gradient_loss(difference, valid)
        return total

    return losses


def gradient_loss(difference: Tensor, valid: Tensor) -> Tensor:
    """Mean |difference of g two pixels apart|, in x and y, over strides 1, 2, 4 and 6, for each head.

    difference [heads, b, H, W], valid [b, H, W]. Pairs with an invalid pixel don't count.
    """
    total = difference.new_zeros(len(difference))
    for stride in (1, 2, 4, 6):
        values, known = difference[..., ::stride, ::stride], valid[..., ::stride, ::stride]
        for axis in (-1, -2):
            length = values.shape[axis] - 2
            if length < 1:
                continue
            pair = known.narrow(axis, 0, length) & known.narrow(axis, 2, length)
            change = (values.narrow(axis, 2, length) - values.narrow(axis, 0, length)).abs() * pair
            counted = sum_with_gradient(pair.sum().to(values.dtype)).clamp(min=1)
            total = total + sum_with_gradient(change.sum((1, 2, 3))) / counted
    return total
