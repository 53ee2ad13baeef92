"""Builds the segmentor and loads every backbone tensor; optionally freezes it."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmseg.models.backbones import VisionTransformer
from mmseg.registry import MODELS
from torch import Tensor, nn

import evaluate.segmentation.model.timm_network  # noqa: F401, registers TimmNetwork
from core.backbones import Backbone
from core.compute.sync_norm import synchronise_norms
from evaluate.common.context import RunContext
from evaluate.segmentation.model.adapters import Adapter, adapter_for
from evaluate.segmentation.protocol import SegmentConfig


@MODELS.register_module()
class MAEVisionTransformer(VisionTransformer):
    """Same network; the engine's layer-wise learning rates require MAE in the name."""


@MODELS.register_module()
class NormedTapsMAEVisionTransformer(MAEVisionTransformer):
    """Applies the norm after the last block to the map of every tap, as iBOT's segmentation does."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.final_norm = False  # the engine would apply it to the last block only; `forward` applies it

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, H, W] -> normalised maps [B, C, h, w], one per tap."""
        return tuple(self.norm1(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for x in super().forward(images))


def build_segmentor(
    config: SegmentConfig, settings: dict[str, Any], backbone: Backbone, context: RunContext
) -> tuple[nn.Module, str]:
    """Model of `model_settings` with randomly initialised heads, and a report of the loaded tensors.

    Raises `UserError` if a tensor of the backbone or of the model has no counterpart.
    """
    init_default_scope("mmseg")
    if not MMLogger.check_instance_created("segmentor"):
        MMLogger.get_instance("segmentor", log_level="ERROR")  # otherwise the initialisation of each tensor is printed
    torch.manual_seed(context.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the engine's advice on options that the recipes do not change
        model = MODELS.build(ConfigDict(settings))
    model.init_weights()  # before loading: the engine does not initialise a second time
    adapter = adapter_for(backbone)
    report = adapter.load(model.backbone, backbone, config)
    if config.network.frozen:
        adapter.freeze(model.backbone)
        report += "; frozen"
    if config.sync_norm and context.processes.world_size > 1:
        _synchronise(model, adapter, config, context.device)
    return model, report


def _synchronise(model: nn.Module, adapter: Adapter, config: SegmentConfig, device: torch.device) -> None:
    """Shares the statistics of batch norms that the engine itself does not synchronise."""
    for name, part in model.named_children():
        if config.network.frozen and name == "backbone":
            continue  # its statistics are kept, by the engine only for norms of its own
        if device.type == "cpu" or (name == "backbone" and not adapter.native):
            setattr(model, name, synchronise_norms(part, device))
