"""Key maps of timm's ViT names, which DINO, MAE, MoCo v3 and many others use too, and of DINOv2's variants of them."""

from __future__ import annotations

from torch import Tensor

from converters.key_maps.base import IDENTITY, MASKED, ON_TOP, KeyMap

_OUTSIDE = {**ON_TOP, **MASKED}
_REGISTERS = ("reg_token", "register_tokens")


def fold_class_position(tensors: dict[str, Tensor]) -> str:
    """Adds the class token's position embedding to the class token where DINOv2's registers have no position.

    timm's network of that kind gives positions to patches alone (`no_embed_class`). Tensors: cls_token [1, 1, D],
    pos_embed [1, 1 + s², D], reg_token [1, R, D].
    """
    if not {"reg_token", "cls_token", "pos_embed"} <= tensors.keys():
        return ""
    token, positions = tensors["cls_token"], tensors["pos_embed"]
    if token.ndim != 3 or positions.ndim != 3 or token.shape != positions[:, :1].shape:
        return ""  # no such network: refused when it is compared with one
    tensors["cls_token"] = token + positions[:, :1]
    tensors["pos_embed"] = positions[:, 1:].clone()
    return "position embedding of the class token added to it"


VIT = KeyMap("timm's ViT", "blocks.0.attn.qkv.weight", "patch_embed.proj.", heads=_OUTSIDE)

DINOV2 = KeyMap(
    "DINOv2's ViT",
    "blocks.0.ls1.gamma",
    "mask_token",
    heads=_OUTSIDE,
    adapt=fold_class_position,
    positions="dinov2",
    needs=("pos_embed", "cls_token"),
)

DINOV2_REGISTERS = KeyMap(
    "DINOv2's ViT with registers",
    "register_tokens",
    "blocks.0.attn.qkv.",
    templates=(_REGISTERS, *IDENTITY),
    heads=_OUTSIDE,
    adapt=fold_class_position,
    positions="dinov2",
    needs=("pos_embed", "cls_token"),
)

DINOV2_SWIGLU = KeyMap(
    "DINOv2's ViT with SwiGLU",
    "blocks.0.mlp.w12.weight",
    "patch_embed.proj.",
    templates=(
        _REGISTERS,
        ("blocks.{n}.mlp.fc1.{}", "blocks.{n}.mlp.w12.{}"),
        ("blocks.{n}.mlp.fc2.{}", "blocks.{n}.mlp.w3.{}"),
        *IDENTITY,
    ),
    heads=_OUTSIDE,
    adapt=fold_class_position,
    positions="dinov2",
    needs=("pos_embed", "cls_token"),
)

DINOV2_CHUNKS = KeyMap(
    "DINOv2's ViT in chunks of blocks",
    "blocks.0.0.attn.qkv.weight",
    "patch_embed.proj.",
    templates=(
        _REGISTERS,
        ("blocks.{n}.mlp.fc1.{}", "blocks.{-}.{n}.mlp.w12.{}"),
        ("blocks.{n}.mlp.fc2.{}", "blocks.{-}.{n}.mlp.w3.{}"),
        ("blocks.{n}.{*}", "blocks.{-}.{n}.{*}"),
        *IDENTITY,
    ),
    heads=_OUTSIDE,
    adapt=fold_class_position,
    positions="dinov2",
    needs=("pos_embed", "cls_token"),
)

KEY_MAPS = (VIT, DINOV2, DINOV2_REGISTERS, DINOV2_SWIGLU, DINOV2_CHUNKS)
