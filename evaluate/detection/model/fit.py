"""Checks that a backbone fits the design of a detection protocol."""

from __future__ import annotations

from typing import Any

from torch import nn

from converters.key_maps.detectron2 import RESNET
from core.backbones import Backbone, BackboneConfig, architecture_args, check_weights, describe, family_of
from core.errors import UserError
from evaluate.detection.settings import DetectionConfig

DEPTHS = {f"resnet{depth}": depth for depth in (18, 34, 50, 101, 152)}
"""The ResNets that Detectron2's own builder knows."""


def plain_depth(config: BackboneConfig) -> int | None:
    """Depth of a ResNet that Detectron2's builder can make; None if arguments change its shape."""
    return None if architecture_args(config) else DEPTHS.get(config.name)


def check_fit(config: DetectionConfig, backbone: Backbone) -> None:
    """Raises `UserError` if the protocol's design can't use the backbone."""
    design, what = config.detector.design, describe(backbone.config)
    check_weights(backbone, "build a detector on")
    model: Any = backbone.model
    family, wanted = family_of(model), design.partition("_")[0]
    if family.architecture != wanted:
        kind = {"vit": "ViTs", "resnet": "ResNets"}[wanted]
        raise UserError(f"{config.name} is a protocol for {kind}, and {backbone.source} is a {what}")
    if wanted == "vit":
        if family.input_multiple(model) != (16, 16):
            raise UserError(f"{what}: the pyramid's strides 4 … 32 need patches of 16 pixels")
        depth = family.blocks(model)
        if max(config.detector.taps) >= depth:
            fit = ",".join(str(quarter * depth // 4 - 1) for quarter in range(1, 5))
            raise UserError(
                f"{what} has {depth} blocks, counted from 0, detector.taps is {list(config.detector.taps)}; give e.g. "
                f"detector.taps=[{fit}]"
            )
        return
    if backbone.config.stem != "imagenet" or getattr(model, "layer4", None) is None:
        raise UserError(f"{what}: the detector's ResNets have a 7×7 stem with max pooling and four stages")
    if design == "resnet_c4" and (plain_depth(backbone.config) or 0) < 50:
        raise UserError(
            f"{what} can't be measured under {config.name}: C4's head is a res5 of three bottlenecks, into which only "
            f"the weights of ResNet-50, 101 and 152 fit; take a protocol with FPN"
        )
    if other := _other_layers(model):
        raise UserError(
            f"{what} can't be a Detectron2 backbone: it has {other}, and Detectron2's ResNet would compute "
            f"other features from its weights; take the plain ResNet"
        )
    unknown = [name for name in model.state_dict() if RESNET.from_timm(name) is None]
    if unknown:
        raise UserError(f"{what}: Detectron2's ResNet has no place for {len(unknown)} tensors, e.g. {unknown[0]}")


def _other_layers(resnet: Any) -> str:
    """Difference in what a ResNet of timm and Detectron2's compute from the same tensors; empty if there is none."""
    from timm.models.resnet import BasicBlock, Bottleneck

    modules = list(resnet.modules())
    blocks: list[Any] = [module for module in modules if isinstance(module, BasicBlock | Bottleneck)]
    if any(not isinstance(getattr(block, "aa", None), nn.Identity | None) for block in blocks):
        return "anti-aliasing in its strided blocks"
    if not isinstance(resnet.maxpool, nn.MaxPool2d):
        return "something else than max pooling in its stem"
    if any(isinstance(module, nn.Conv2d) and module.dilation != (1, 1) for module in modules):
        return "dilated convolutions (output_stride below 32)"
    if not isinstance(resnet.bn1, nn.BatchNorm2d):
        return f"{type(resnet.bn1).__name__} in place of batch norms"
    acts = [block.act1 for block in blocks] + [resnet.act1]
    if not all(isinstance(act, nn.ReLU) for act in acts):
        return "an activation that is not ReLU"
    return ""
