"""A batch of crops on the device: augmented and normalised views, and the parameters they were made with."""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.config import PretrainConfig
from pretrain.losses.base import Parameters
from pretrain.views.augment import augment
from pretrain.views.collate import Batch, View
from pretrain.views.config import ViewConfig


def views_on_device(
    batch: Batch, config: PretrainConfig, device: torch.device, layout: torch.memory_format
) -> dict[str, list[Tensor]]:
    """The second stage: uint8 crops [B, 3, S, S] -> augmented, normalised float views on the device, in `layout`."""

    def finish(view: View, view_config: ViewConfig) -> Tensor:
        images = view.images.to(device, non_blocking=True)
        done = augment(images, view.parameters, view_config, config.backbone.mean, config.backbone.std)
        return done.contiguous(memory_format=layout)

    return {name: [finish(view, config.views[name]) for view in views] for name, views in batch.views.items()}


def parameters_of(batch: Batch) -> dict[str, list[Parameters]]:
    """Parameters of each view of a batch, arrays [B, …] on the CPU."""
    return {name: [view.parameters for view in views] for name, views in batch.views.items()}
