"""Key maps of torchvision: its ResNets share timm's names, its ViTs have their own."""

from __future__ import annotations

from converters.key_maps.base import ON_TOP, KeyMap

_LAYER = "encoder.layers.encoder_layer_{}."

RESNET = KeyMap("torchvision's and timm's ResNet", "layer1.0.conv1.weight", "conv1.", heads=ON_TOP)

CHILDREN = KeyMap(
    "torchvision's ResNet as a sequence of its children",
    "7.0.conv1.weight",
    "0.weight",
    templates=tuple(
        (f"{ours}.{{*}}", f"{theirs}.{{*}}")
        for ours, theirs in (
            ("conv1", 0), ("bn1", 1), ("layer1", 4), ("layer2", 5), ("layer3", 6), ("layer4", 7),
        )
    ),
    heads=ON_TOP,
)  # fmt: skip

VIT = KeyMap(
    "torchvision's ViT",
    "encoder.layers.encoder_layer_0.self_attention.in_proj_weight",
    "conv_proj.",
    templates=(
        ("cls_token", "class_token"),
        ("pos_embed", "encoder.pos_embedding"),
        ("patch_embed.proj.{}", "conv_proj.{}"),
        ("blocks.{}.norm{}.{}", _LAYER + "ln_{}.{}"),
        ("blocks.{}.attn.qkv.{}", _LAYER + "self_attention.in_proj_{}"),
        ("blocks.{}.attn.proj.{}", _LAYER + "self_attention.out_proj.{}"),
        ("blocks.{}.mlp.fc1.{}", _LAYER + "mlp.0.{}"),
        ("blocks.{}.mlp.fc2.{}", _LAYER + "mlp.3.{}"),
        # Names of its first release; writing takes the rows above.
        ("blocks.{}.mlp.fc1.{}", _LAYER + "mlp.linear_1.{}"),
        ("blocks.{}.mlp.fc2.{}", _LAYER + "mlp.linear_2.{}"),
        ("norm.{}", "encoder.ln.{}"),
    ),
    heads=ON_TOP,
)

KEY_MAPS = (RESNET, CHILDREN, VIT)
