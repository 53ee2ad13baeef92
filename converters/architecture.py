"""Architectures, read from text such as `resnet18(channels=[16, 32, 64, 128])` and from the shapes of weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import yaml
from torch import Tensor

from core.backbones import BackboneConfig, describe
from core.config import from_dict
from core.errors import UserError

# (bottlenecks, blocks per stage, groups, base width) -> timm's name.
_RESNETS: dict[tuple[bool, tuple[int, ...], int, int], str] = {
    (False, (2, 2, 2, 2), 1, 64): "resnet18",
    (False, (3, 4, 6, 3), 1, 64): "resnet34",
    (True, (3, 4, 6, 3), 1, 64): "resnet50",
    (True, (3, 4, 23, 3), 1, 64): "resnet101",
    (True, (3, 8, 36, 3), 1, 64): "resnet152",
    (True, (3, 4, 6, 3), 1, 128): "wide_resnet50_2",
    (True, (3, 4, 23, 3), 1, 128): "wide_resnet101_2",
    (True, (3, 4, 6, 3), 32, 4): "resnext50_32x4d",
    (True, (3, 4, 23, 3), 32, 8): "resnext101_32x8d",
}
_CHANNELS = [64, 128, 256, 512]
# (width, depth) -> timm's word for the size and its number of heads.
_VITS = {
    (192, 12): ("tiny", 3),
    (384, 12): ("small", 6),
    (768, 12): ("base", 12),
    (1024, 24): ("large", 16),
    (1280, 32): ("huge", 16),
}


@dataclass(frozen=True)
class _Entry:
    """A ViT of timm and its sizes."""

    name: str
    width: int
    depth: int
    heads: int
    patch: int
    side: int = 224
    mlp_ratio: float = 4.0


_SMALL = _Entry("vit_small_patch16_224", 384, 12, 6, 16)
_SWIGLU = _Entry("vit_giant_patch14_dinov2", 1536, 40, 24, 14, 518, 2 * 2.66667)
# Number of heads of published widths where it is not width / 64.
_HEADS = {1152: 16, 1408: 16, 1664: 16}
_MOCO_V3_HEADS = {192: 12, 384: 12}


@dataclass(frozen=True)
class Hints:
    """Facts about an architecture that the weights do not show and the family of the file implies."""

    family: str = ""
    """Its name, for messages."""
    padded_stem: bool = False
    """3×3 stems have a border of 2 pixels instead of 1."""
    heads: Mapping[int, int] = field(default_factory=dict)
    """Width of a ViT -> its number of attention heads, where it is not width / 64."""


NO_HINTS = Hints()


def parse_architecture(text: str) -> BackboneConfig:
    """Config of `NAME` or `NAME(key=value, …)`, as `core.backbones.describe` prints it.

    Values are YAML; `stem`, `mean` and `std` set those of the config, other keys are arguments of timm's model. Raises
    `UserError` for anything else.
    """
    match = re.fullmatch(r"([\w.]+)\s*(?:\((.*)\))?", text.strip(), re.DOTALL)
    if match is None:
        raise UserError(f"{text!r} is not an architecture; write e.g. resnet50 or 'resnet18(channels=[16,32,64,128])'")
    try:
        args = yaml.safe_load("{" + re.sub(r"(\w+)\s*=\s*", r"\1: ", match[2] or "") + "}")
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError):
        args = None
    if not isinstance(args, dict) or None in args.values():
        raise UserError(f"the arguments in {text!r} can't be read; write e.g. 'resnet18(channels=[16,32,64,128])'")
    own = {key: args.pop(key) for key in ("stem", "mean", "std") if key in args}
    return from_dict(BackboneConfig, {"name": match[1], "args": args, **own})


def check_consistent(config: BackboneConfig, arch: str | None, source: str) -> None:
    """Raises `UserError` where `arch` contradicts the architecture that `source` is known to have."""
    if arch is None:
        return
    wanted = parse_architecture(arch)
    if wanted.name != config.name or ("(" in arch and (wanted.args, wanted.stem) != (config.args, config.stem)):
        raise UserError(f"{source} is a {describe(config)}, --arch says {arch}")
    plain = BackboneConfig()
    if (wanted.mean, wanted.std) not in ((plain.mean, plain.std), (config.mean, config.std)):
        raise UserError(f"{source} is normalised with mean {config.mean} and std {config.std}, --arch says {arch}")


def infer(tensors: Mapping[str, Tensor], source: str, hints: Hints = NO_HINTS) -> tuple[BackboneConfig, str]:
    """The architecture of weights under timm's names, and a note on what is assumed ("" for nothing).

    `hints`: of the file's family. Raises `UserError` where the shapes do not show the architecture.
    """
    try:
        if "patch_embed.proj.weight" in tensors:
            return _infer_vit(tensors, source, hints)
        return _infer_resnet(tensors, source, hints)
    except (IndexError, ZeroDivisionError) as error:  # tensors without the dimensions of a convolution
        raise UserError(f"{source} holds tensors whose shapes no known network has ({error}); give --arch") from None


def _infer_resnet(tensors: Mapping[str, Tensor], source: str, hints: Hints) -> tuple[BackboneConfig, str]:
    stem = tensors.get("conv1.weight")
    if stem is None or stem.shape[:2] != (64, 3) or stem.shape[2:] not in ((7, 7), (3, 3)):
        shape = "a deep stem" if stem is None else f"a stem of shape {list(stem.shape)}"
        raise UserError(
            f"{source} holds a ResNet with {shape}; known are 64 filters of 7×7 or 3×3 over RGB, "
            f"for others give timm's name with --arch, e.g. resnet50d"
        )
    numbers = sorted(
        {(int(m[1]), int(m[2])) for m in (re.match(r"layer(\d{1,3})\.(\d{1,3})\.", name) for name in tensors) if m}
    )
    layers = [sum(stage == number for stage, _ in numbers) for number in range(1, max(numbers)[0] + 1)]
    bottleneck = "layer1.0.conv3.weight" in tensors
    try:
        last = "conv3" if bottleneck else "conv2"
        expansion = 4 if bottleneck else 1
        channels = [
            tensors[f"layer{stage}.0.{last}.weight"].shape[0] // expansion for stage in range(1, len(layers) + 1)
        ]
        middle = tensors["layer1.0.conv2.weight"]
    except KeyError as error:
        raise UserError(f"{source} holds an incomplete ResNet: {error.args[0]} is missing") from None
    groups = middle.shape[0] // middle.shape[1] if bottleneck else 1
    base_width = middle.shape[0] // groups * 64 // channels[0] if bottleneck else 64
    args: dict[str, Any] = {}
    name = _RESNETS.get((bottleneck, tuple(layers), groups, base_width))
    if name is None:
        name = _RESNETS.get((bottleneck, tuple(layers), 1, 64))
        if name is None:
            name = "resnet50" if bottleneck else "resnet18"
            args["layers"] = layers
        if groups > 1:
            args["cardinality"] = groups
        if base_width != 64:
            args["base_width"] = base_width
    if channels != _CHANNELS:
        args["channels"] = channels
    if stem.shape[2] == 7:
        return BackboneConfig(name, args), ""
    kind, border = ("small_padded", 2) if hints.padded_stem else ("small", 1)
    note = f"3×3 stem: stride 1, border {border}, no max pooling assumed"
    return BackboneConfig(name, args, kind), note  # type: ignore[arg-type]


def _infer_vit(tensors: Mapping[str, Tensor], source: str, hints: Hints) -> tuple[BackboneConfig, str]:
    patches = tensors["patch_embed.proj.weight"]
    if patches.ndim != 4 or patches.shape[1] != 3 or patches.shape[2] != patches.shape[3]:
        raise UserError(f"{source} holds a ViT with patches of shape {list(patches.shape)}; known are square RGB ones")
    width, patch = patches.shape[0], patches.shape[2]
    depth = 1 + max(int(m[1]) for m in (re.match(r"blocks\.(\d{1,3})\.", name) for name in tensors) if m)
    hidden = tensors["blocks.0.mlp.fc1.weight"].shape[0] if "blocks.0.mlp.fc1.weight" in tensors else 4 * width
    grid, args = _position_grid(tensors, source)
    size, heads = _VITS.get((width, depth), ("", 0))
    name = f"vit_{size}_patch{patch}_224"
    if _is_gated(tensors):
        entry, heads = _SWIGLU, 24 if width == _SWIGLU.width else heads
    elif size and _known(name):
        entry = _Entry(name, width, depth, heads, patch)
    else:
        entry = _SMALL
    sizes = {"patch_size": (patch, entry.patch), "embed_dim": (width, entry.width), "depth": (depth, entry.depth)}
    if grid is None:
        args["pos_embed"] = "none"
    elif grid * patch != entry.side:
        args["img_size"] = grid * patch
    args |= {key: value for key, (value, default) in sizes.items() if value != default}
    moco = _MOCO_V3_HEADS if grid is not None and _is_moco_v3(tensors["pos_embed"], grid) else {}
    if width in moco:
        heads, note = moco[width], f"{moco[width]} attention heads, as in MoCo v3 (by its fixed position embedding)"
    elif width in hints.heads:
        heads, note = hints.heads[width], f"{hints.heads[width]} attention heads, as in {hints.family}"
    else:
        heads = heads or _HEADS.get(width, 0)
        if not heads and width % 64:
            raise UserError(
                f"{source} holds a ViT of width {width}, whose number of attention heads the weights don't show; give "
                f"--arch '{describe(BackboneConfig(entry.name, args)).removesuffix(')')}, num_heads=N)'"
            )
        heads = heads or width // 64
        note = f"{heads} attention heads assumed, the weights don't show them"
    if heads != entry.heads:
        args["num_heads"] = heads
    if hidden != int(entry.mlp_ratio * width):
        args["mlp_ratio"] = hidden / width
    return BackboneConfig(entry.name, args | _vit_options(tensors)), note


def _is_gated(tensors: Mapping[str, Tensor]) -> bool:
    """True if the MLP multiplies two halves of its hidden layer, as SwiGLU does."""
    first, second = (tensors.get(f"blocks.0.mlp.fc{number}.weight") for number in (1, 2))
    return first is not None and second is not None and first.shape[0] == 2 * second.shape[1]


def _vit_options(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    args: dict[str, Any] = {}
    if "cls_token" not in tensors:
        args |= {"class_token": False, "global_pool": "avg", "fc_norm": "fc_norm.weight" in tensors}
        if "norm.weight" not in tensors and "fc_norm.weight" not in tensors:
            args["final_norm"] = False
    elif "fc_norm.weight" in tensors:
        args["global_pool"] = "avg"
    elif "norm.weight" not in tensors:
        args["final_norm"] = False
    if "reg_token" in tensors:
        args["reg_tokens"] = tensors["reg_token"].shape[1]
    if "norm_pre.weight" in tensors:
        args["pre_norm"] = True
    if "blocks.0.attn.qkv.bias" not in tensors:
        args["qkv_bias"] = False
    if "blocks.0.ls1.gamma" in tensors:
        args["init_values"] = 1.0  # the start of layer scale; its trained values replace it
    return args


def _position_grid(tensors: Mapping[str, Tensor], source: str) -> tuple[int | None, dict[str, Any]]:
    """Side of the square grid of position embeddings (None without any), and whether the class token has one."""
    if "pos_embed" not in tensors:
        return None, {}
    length = tensors["pos_embed"].shape[-2]
    prefix = int("cls_token" in tensors) + (tensors["reg_token"].shape[1] if "reg_token" in tensors else 0)
    for without, args in ((prefix, {}), (0, {"no_embed_class": True})):
        side = math.isqrt(max(0, length - without))
        if side > 0 and side * side == length - without:
            return side, args
    raise UserError(
        f"{source} holds a ViT with {length} position embeddings that do not form a square grid; give --arch"
    )


def _is_moco_v3(embedding: Tensor, side: int) -> bool:
    """True if the embedding is MoCo v3's fixed one (sine and cosine in 2-D; arXiv 2104.02057, section 5)."""
    quarter = embedding.shape[-1] // 4
    frequencies = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = torch.meshgrid(torch.arange(side).double(), torch.arange(side).double(), indexing="ij")
    angles = [axis.reshape(-1, 1) * frequencies for axis in (rows, columns)]
    expected = torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)
    given = embedding.reshape(-1, embedding.shape[-1])[-side * side :].double()
    return given.shape == expected.shape and bool(torch.allclose(given, expected, rtol=0, atol=1e-3))


def _known(name: str) -> bool:
    import timm

    return timm.is_model(name)
