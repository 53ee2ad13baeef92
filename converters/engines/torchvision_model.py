"""torchvision's models of the same architecture as a backbone, without their heads, with random weights.

Each function raises `UserError` for a network that torchvision doesn't have.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from converters.key_maps import convnext, swin
from converters.key_maps.base import KeyMap
from converters.key_maps.torchvision import VIT
from core.backbones import BackboneConfig, architecture_args, describe
from core.errors import UserError


def resnet_model(config: BackboneConfig) -> nn.Module:
    """A ResNet that torchvision names."""
    import torchvision

    if architecture_args(config) or not hasattr(torchvision.models, config.name):
        raise UserError(
            f"torchvision has no {describe(config)}; it builds resnet18 … resnet152 and their wide and grouped kin at "
            f"full width, so convert --to timm instead"
        )
    model = getattr(torchvision.models, config.name)(weights=None)
    model.fc = nn.Identity()
    if config.stem != "imagenet":
        padding = 2 if config.stem == "small_padded" else 1
        model.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=padding, bias=False)
        model.maxpool = nn.Identity()
    return model


def vit_model(config: BackboneConfig, timm_model: Any) -> nn.Module:
    """A ViT of any size."""
    from torchvision.models import VisionTransformer

    block, patches = timm_model.blocks[0], timm_model.patch_embed
    model = VisionTransformer(
        image_size=patches.img_size[0],
        patch_size=patches.patch_size[0],
        num_layers=len(timm_model.blocks),
        num_heads=block.attn.num_heads,
        hidden_dim=timm_model.embed_dim,
        mlp_dim=block.mlp.fc1.out_features,
    )
    model.heads = nn.Sequential()
    wanted = {VIT.from_timm(name): tensor.shape for name, tensor in timm_model.state_dict().items()}
    if wanted != {name: tensor.shape for name, tensor in model.state_dict().items()}:
        raise UserError(
            f"torchvision's ViT has square images, a class token, biases and a final norm and nothing more; "
            f"{describe(config)} differs from that, so convert --to timm instead"
        )
    return model


def convnext_model(config: BackboneConfig, timm_model: Any) -> nn.Module:
    """A ConvNeXt of the first version, of any width and depth."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    widths = [stage.blocks[0].norm.normalized_shape[0] for stage in timm_model.stages]
    depths = [len(stage.blocks) for stage in timm_model.stages]
    layers = [
        CNBlockConfig(width, after, depth)
        for width, after, depth in zip(widths, [*widths[1:], None], depths, strict=True)
    ]
    model = ConvNeXt(layers, num_classes=1)
    model.classifier[2] = nn.Identity()
    _check_shapes(config, timm_model, model, convnext.TORCHVISION, "a stem of 4×4 patches, biases and layer scale")
    return model


def swin_model(config: BackboneConfig, timm_model: Any) -> nn.Module:
    """A Swin of the first version with one window size."""
    from torchvision.models.swin_transformer import SwinTransformer

    first = timm_model.layers[0].blocks[0]
    model = SwinTransformer(
        patch_size=list(timm_model.patch_embed.patch_size),
        embed_dim=timm_model.embed_dim,
        depths=[len(layer.blocks) for layer in timm_model.layers],
        num_heads=[layer.blocks[0].attn.num_heads for layer in timm_model.layers],
        window_size=list(first.attn.window_size),
        mlp_ratio=first.mlp.fc1.out_features / first.mlp.fc1.in_features,
        num_classes=1,
    )
    model.head = nn.Identity()
    _check_shapes(config, timm_model, model, swin.TORCHVISION, "one window size, biases and a final norm")
    return model


def _check_shapes(config: BackboneConfig, timm_model: Any, model: nn.Module, key_map: KeyMap, what: str) -> None:
    """Raises `UserError` unless all parameters correspond, up to dimensions of size 1."""
    wanted = {key_map.from_timm(name): x.numel() for name, x in timm_model.named_parameters()}
    if wanted != {name: x.numel() for name, x in model.named_parameters()}:
        raise UserError(
            f"torchvision's {type(model).__name__} has {what} and nothing more; {describe(config)} differs from that, "
            f"so convert --to timm instead"
        )
