"""Detectron2's ResNet with the blocks and widths of a timm ResNet, also of those that its own builder doesn't know."""

from __future__ import annotations

from typing import Any


def detectron2_resnet(model: Any, norm: str, out_features: tuple[str, ...] = ()) -> Any:
    """A randomly initialised `detectron2.modeling.backbone.resnet.ResNet` like the timm ResNet `model`.

    `norm`: Detectron2's name of a norm layer. `out_features`: of res2 … res5; all stages where none is named. The stem
    is 7×7 with max pooling, and a bottleneck strides in its 3×3 convolution.
    """
    from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet

    width = inputs = model.conv1.out_channels
    stages = []
    for number in range(1, 5):
        stage = getattr(model, f"layer{number}", None)
        if stage is None:
            break
        block = stage[0]
        bottleneck = hasattr(block, "conv3")
        outputs = (block.conv3 if bottleneck else block.conv2).out_channels
        options: dict[str, Any] = {"norm": norm}
        if bottleneck:
            options |= {"bottleneck_channels": block.conv1.out_channels, "num_groups": block.conv2.groups}
            options["stride_in_1x1"] = False
        strides = [1 if number == 1 else 2] + [1] * (len(stage) - 1)
        stages.append(
            ResNet.make_stage(
                BottleneckBlock if bottleneck else BasicBlock,
                len(strides),
                stride_per_block=strides,
                in_channels=inputs,
                out_channels=outputs,
                **options,
            )
        )
        inputs = outputs
    names = [f"res{number + 2}" for number in range(len(stages))]
    return ResNet(BasicStem(3, width, norm=norm), stages, out_features=list(out_features) or names)
