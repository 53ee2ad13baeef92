"""Memory layout of a network's convolutions and of the images that it trains on."""

from __future__ import annotations

import torch
from torch import nn

_SAFE_CHANNELS = 8


def training_layout(model: nn.Module, device: torch.device, channels_last: bool = True) -> torch.memory_format:
    """The layout in which `model` and its input can be trained on `device`.

    `channels_last`: the layout to prefer. The contiguous one is returned on CPUs where the model has a strided 1×1
    convolution of fewer than 8 input channels: without AVX-512, oneDNN's kernel for the weight gradient of such a layer
    writes past its buffers in channels_last (torch 2.14: 60 passes of `Conv2d(4, 8, 1, stride=2)` on [8, 4, 16, 16] end
    in "corrupted size" or a segmentation fault). Only very narrow networks have such layers.
    """
    if not channels_last or (device.type == "cpu" and any(map(_overruns, model.modules()))):
        return torch.contiguous_format
    return torch.channels_last


def _overruns(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.in_channels < _SAFE_CHANNELS
    )
