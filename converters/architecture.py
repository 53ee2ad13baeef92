"""Architectures, read from text such as `resnet18(channels=[16, 32, 64, 128])` and from the shapes of weights."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import yaml
from torch import Tensor

from converters.inference import INFERENCES
from converters.inference.base import any_channels
from converters.inference.hints import NO_HINTS, Hints
from converters.inference.vit import CONV_STEM, infer_vit
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
_PLAIN = "plain blocks assumed, not anti-aliased (--arch resnetaa50 or resnetblur50) and without SAME padding"
_CHANNELS = [64, 128, 256, 512]


def parse_architecture(text: str) -> BackboneConfig:
    """Config of `NAME` or `NAME(key=value, …)`, as `core.backbones.describe` prints it.

    Values are YAML; `stem`, `mean`, `std` and `pos_resize` set those of the config, other keys are arguments of timm's
    model. Raises `UserError` for anything else.
    """
    name, args = _name_and_arguments(text)
    own: dict[str, Any] = {key: args.pop(key) for key in ("stem", "mean", "std", "pos_resize") if key in args}
    return from_dict(BackboneConfig, {"name": name, "args": args, **own})


def states(text: str, key: str) -> bool:
    """True if an architecture in text gives `key` a value, be it the default one. Raises `UserError` as above."""
    return key in _name_and_arguments(text)[1]


def _name_and_arguments(text: str) -> tuple[str, dict[str, Any]]:
    match = re.fullmatch(r"([\w.]+)\s*(?:\((.*)\))?", text.strip(), re.DOTALL)
    if match is None:
        raise UserError(f"{text!r} is not an architecture; write e.g. resnet50 or 'resnet18(channels=[16,32,64,128])'")
    try:
        args = yaml.safe_load("{" + re.sub(r"(\w+)\s*=\s*", r"\1: ", match[2] or "") + "}")
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError):
        args = None
    if not isinstance(args, dict) or None in args.values():
        raise UserError(f"the arguments in {text!r} can't be read; write e.g. 'resnet18(channels=[16,32,64,128])'")
    return match[1], args


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
        config, note = _by_shapes(tensors, source, hints)
    except UserError:
        raise
    except (
        IndexError,
        ZeroDivisionError,
        KeyError,
        ValueError,
        TypeError,
    ) as error:  # no network's names or dimensions
        raise UserError(f"{source} holds tensors whose shapes no known network has ({error}); give --arch") from None
    return (dataclasses.replace(config, args=config.args | dict(hints.args)) if hints.args else config), note


def _by_shapes(tensors: Mapping[str, Tensor], source: str, hints: Hints) -> tuple[BackboneConfig, str]:
    found = next((inference for inference in INFERENCES if inference.matches(tensors)), None)
    if found is not None:
        return found.config(tensors, hints)
    if "patch_embed.proj.weight" in tensors or CONV_STEM in tensors:
        return infer_vit(tensors, source, hints)
    return _infer_resnet(tensors, source, hints)


def _infer_resnet(tensors: Mapping[str, Tensor], source: str, hints: Hints) -> tuple[BackboneConfig, str]:
    stem = tensors.get("conv1.weight")
    if stem is None or stem.ndim != 4 or stem.shape[2:] not in ((7, 7), (3, 3)):
        shape = "a deep stem" if stem is None else f"a stem of shape {list(stem.shape)}"
        raise UserError(
            f"{source} holds a ResNet with {shape}; known are filters of 7×7 or 3×3, for others give timm's name with "
            f"--arch, e.g. resnet50d"
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
    if stem.shape[0] != 64:
        args["stem_channels"] = stem.shape[0]
    if stem.shape[1] != 3:
        args["in_chans"] = stem.shape[1]
    if stem.shape[2] == 7:
        return any_channels(name, args), _PLAIN
    kind, border = ("small_padded", 2) if hints.padded_stem else ("small", 1)
    note = f"3×3 stem: stride 1, border {border}, no max pooling assumed"
    return any_channels(name, args, kind), note
