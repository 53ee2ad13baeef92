"""The plain ResNet that other libraries build, and how a ResNet of timm may differ from it."""

from __future__ import annotations

from typing import Any

from torch import nn


def other_layers(resnet: Any) -> str:
    """Difference in what a ResNet of timm and the plain one compute from the same tensors; empty if there is none.

    The plain one has a 7×7 stem, max pooling, batch norms and ReLU, and strides in the 3×3 convolutions.
    """
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
