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

from converters.mmseg_backbone import FINAL_NORM, mmseg_names, resize_positions
from core.backbones import Backbone, family_of
from core.coverage import load_completely
from core.sync_norm import synchronise_norms
from evaluate.common.context import RunContext
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
    report = load_backbone(model.backbone, backbone, config) + _freeze_unseen(model.backbone, backbone, config)
    if config.network.frozen:
        model.backbone.requires_grad_(False)
        report += "; frozen"
    if config.sync_norm and context.processes.world_size > 1 and context.device.type == "cpu":
        for name, part in model.named_children():
            if config.network.frozen and name == "backbone":
                continue  # the engine keeps its statistics fixed, which it does only for norms of its own
            setattr(model, name, synchronise_norms(part, context.device))
    return model, report


def _freeze_unseen(module: Any, backbone: Backbone, config: SegmentConfig) -> str:
    """Freezes the part of a ViT behind its last tap; returns a sentence about it.

    It gets no gradient: DDP would raise, and the optimiser would still decay it.
    """
    last = config.network.taps[-1]
    if family_of(backbone.model).architecture != "vit" or last == len(module.layers) - 1:
        return ""
    module.layers[last + 1 :].requires_grad_(False)
    if module.final_norm:
        module.norm1.requires_grad_(False)
    return f"; blocks behind block {last}, the last tap, are frozen"


def load_backbone(module: Any, backbone: Backbone, config: SegmentConfig) -> str:
    """Loads the backbone into MMSegmentation's `module`, completely or not at all; returns a report."""
    names = mmseg_names(backbone.config, backbone.model)
    tensors = {names[name]: tensor for name, tensor in backbone.model.state_dict().items()}
    total, notes = len(tensors), []
    if family_of(backbone.model).architecture == "vit":
        if not config.network.final_norm:
            for name in FINAL_NORM:
                tensors.pop(name)
            notes.append(f"the {len(FINAL_NORM)} of the final norm skipped, as the taps lie before it")
        grid = (module.img_size[0] // module.patch_size, module.img_size[1] // module.patch_size)
        resized = resize_positions(tensors["pos_embed"], grid)
        if resized.shape != tensors["pos_embed"].shape:
            notes.append(
                f"position embeddings resized from {tensors['pos_embed'].shape[1] - 1} to {grid[0]}×{grid[1]} "
                f"positions (bicubic, without antialiasing)"
            )
        tensors["pos_embed"] = resized
    coverage = load_completely(module, tensors, backbone.source)
    loaded = module.state_dict()
    assert all(torch.equal(tensor.to(loaded[name].device), loaded[name]) for name, tensor in tensors.items())
    return "; ".join([f"{len(coverage.matched)} of {total} tensors loaded", *notes])
