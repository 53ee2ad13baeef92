"""torchvision's ResNet or ViT for a backbone."""

from __future__ import annotations

from typing import Any

from torch import nn

from converters.key_maps.torchvision import VIT
from core.backbones import BackboneConfig, architecture_args, describe, family_of
from core.errors import UserError


def torchvision_model(config: BackboneConfig, model: Any) -> nn.Module:
    """torchvision's model of the same architecture without its head, with random weights.

    `model` is timm's. Raises `UserError` for a network that torchvision doesn't have.
    """
    architecture = family_of(model).architecture
    if architecture == "vit":
        return _vit(config, model)
    if architecture == "resnet":
        return _resnet(config)
    raise UserError(f"no torchvision model is known for {describe(config)}; convert --to timm instead")


def _resnet(config: BackboneConfig) -> nn.Module:
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


def _vit(config: BackboneConfig, timm_model: Any) -> nn.Module:
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
