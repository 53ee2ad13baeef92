"""Networks of timm that take the same tensors and compute something else: found, so that none is chosen silently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from core.backbones import BackboneConfig, build_backbone
from core.compute.shapes import shapes_only
from core.coverage import compare

_NO_PART = ("Dropout", "DropPath", "Identity", "LayerScale")
_CLIP = ("vit_base_patch32_clip_224", "vit_base_patch32_clip_quickgelu_224")
_HEADS = ("attn_pool", "fc", "fc_drop", "global_pool", "head", "head_drop")


def other_networks(config: BackboneConfig, tensors: Mapping[str, Tensor]) -> list[str]:
    """timm's ViTs that take `tensors` too and compute something else than `config`, as `--arch` takes them.

    Looked for only where timm has such a pair: ViTs with a norm before the first block (CLIP's: eps 1e-5, GELU or its
    quick approximation), and those without a class token (other activations, heads, or norms after the blocks).
    """
    import timm

    if config.args.get("pre_norm"):
        words: tuple[str, ...] = ("_clip_",)
    elif config.args.get("global_pool") == "map":
        words = ("_siglip_",)
    elif config.args.get("class_token") is False:
        words = ("_gap_", "_rpn_")
    else:
        return []
    if "patch_embed.proj.weight" not in tensors:
        return []
    patch, side = tensors["patch_embed.proj.weight"].shape[-1], config.args.get("img_size", 224)
    names = [
        name
        for name in timm.list_models(module="vision_transformer")
        if f"_patch{patch}_" in name and name.endswith(f"_{side}") and any(word in name for word in words)
    ]
    own: Any = sketch(config)
    others = {name: sketch(BackboneConfig(name)) for name in names}
    found = [name for name, other in others.items() if compare(other, tensors).complete and not same(other, own)]
    if found or not config.args.get("pre_norm"):
        return found
    size = f"img_size={side}, patch_size={patch}, embed_dim={own.embed_dim}, depth={len(own.blocks)}"
    heads = own.blocks[0].attn.num_heads
    return [f"{name}({size}, num_heads={heads})" for name in _CLIP]


def sketch(config: BackboneConfig) -> nn.Module:
    """The network on the meta device: structure and shapes, no memory."""
    with shapes_only():
        return build_backbone(config)


def same(a: nn.Module, b: nn.Module) -> bool:
    """True if two networks with the same tensors compute the same features: layers, eps, activations, heads."""
    return _function(a) == _function(b)


def _function(model: nn.Module) -> list[tuple[str, str, Any]]:
    layers = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        if name.partition(".")[0] in _HEADS or kind in _NO_PART:
            continue
        settings = "" if any(True for _ in module.children()) else module.extra_repr()
        layers.append((name, f"{kind}({settings})", getattr(module, "num_heads", None)))
    return layers
