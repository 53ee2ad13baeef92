"""The segmentor itself: MMSegmentation's model, the backbone's weights in it to the last tensor, frozen where asked."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmseg.models.backbones import VisionTransformer
from mmseg.registry import MODELS
from torch import nn

from converters.mmseg_backbone import FINAL_NORM, mmseg_names, resize_positions
from core.backbones import Backbone, is_vit
from core.coverage import load_completely
from core.distributed import Processes
from core.sync_norm import synchronise_norms
from evaluate.segmentation.protocol import SegmentConfig


@MODELS.register_module()
class MAEVisionTransformer(VisionTransformer):
    """The same network; the engine's layer-wise learning rates look for MAE in the name and refuse others."""


def build_segmentor(
    config: SegmentConfig, settings: dict[str, Any], backbone: Backbone, processes: Processes, seed: int
) -> tuple[nn.Module, str]:
    """The model of `model_settings`, heads with random weights from `seed`, and an account of the loaded tensors.

    Raises `UserError` where a tensor of the backbone or a place in the model is left over.
    """
    init_default_scope("mmseg")
    if not MMLogger.check_instance_created("segmentor"):
        MMLogger.get_instance("segmentor", log_level="ERROR")  # or each tensor's initialisation is printed
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the engine's advice on options that the recipes leave as they are
        model = MODELS.build(ConfigDict(settings))
    model.init_weights()  # before the loading: the engine, finding it done, does not do it again
    account = load_backbone(model.backbone, backbone, config) + _freeze_unseen(model.backbone, config)
    if config.network.frozen:
        model.backbone.requires_grad_(False)
        account += "; frozen"
    if config.sync_norm and processes.world_size > 1 and processes.device.type == "cpu":
        for name, part in model.named_children():
            if not (
                config.network.frozen and name == "backbone"
            ):  # whose norms the engine keeps still, if it knows them
                setattr(model, name, synchronise_norms(part, processes.device))
    return model, account


def _freeze_unseen(module: Any, config: SegmentConfig) -> str:
    """Freezes what lies behind a ViT's last tap, and says so.

    No gradient reaches it, which processes that average gradients take for an error, and the optimiser for a weight.
    """
    last = config.network.taps[-1]
    if not isinstance(module, VisionTransformer) or last == len(module.layers) - 1:
        return ""
    module.layers[last + 1 :].requires_grad_(False)
    if module.final_norm:
        module.norm1.requires_grad_(False)
    return f"; what lies behind block {last}, the last that is seen, is frozen"


def load_backbone(module: Any, backbone: Backbone, config: SegmentConfig) -> str:
    """Loads the backbone into MMSegmentation's, all of it or nothing, and says what was done."""
    names = mmseg_names(backbone.config, backbone.model)
    tensors = {names[name]: tensor for name, tensor in backbone.model.state_dict().items()}
    total, notes = len(tensors), []
    if is_vit(backbone.model):
        if not config.network.final_norm:
            for name in FINAL_NORM:
                tensors.pop(name)
            notes.append(f"the {len(FINAL_NORM)} of the final norm left out, as the taps lie before it")
        grid = (module.img_size[0] // module.patch_size, module.img_size[1] // module.patch_size)
        resized = resize_positions(tensors["pos_embed"], grid)
        if resized.shape != tensors["pos_embed"].shape:
            notes.append(
                f"position embeddings resized from {tensors['pos_embed'].shape[1] - 1} to {grid[0]}×{grid[1]} places "
                f"(bicubic, without antialiasing)"
            )
        tensors["pos_embed"] = resized
    coverage = load_completely(module, tensors, backbone.source)
    loaded = module.state_dict()
    assert all(torch.equal(tensor.to(loaded[name].device), loaded[name]) for name, tensor in tensors.items())
    return "; ".join([f"{len(coverage.matched)} of {total} tensors loaded", *notes])
