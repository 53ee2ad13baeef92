"""Key maps of RegNets: timm's, torchvision's and transformers' RegNetY; its RegNetX has the names of its ResNets."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

from converters.key_maps.base import IDENTITY, ON_TOP, KeyMap

_OURS = "s{n}.b{n}."


def _counted(stages: int, blocks: int) -> Callable[[dict[str, Tensor]], str]:
    """Adaptation of names whose stages and blocks begin at other numbers than timm's, which begin at 1."""

    def adapt(tensors: dict[str, Tensor]) -> str:
        for name in [name for name in tensors if re.match(r"s\d+\.b\d+\.", name)]:
            new = re.sub(
                r"s(\d+)\.b(\d+)", lambda match: f"S{int(match[1]) + stages}.b{int(match[2]) + blocks}", name, count=1
            )
            tensors[new] = tensors.pop(name)
        for name in [name for name in tensors if name.startswith("S")]:
            tensors["s" + name[1:]] = tensors.pop(name)
        return ""

    return adapt


def _convolutions(theirs: str, parts: tuple[str, str, str], conv: str, norm: str) -> tuple[tuple[str, str], ...]:
    """Rows for the three convolutions of a block and their norms."""
    return tuple(
        row
        for number, part in enumerate(parts, start=1)
        for row in (
            (f"{_OURS}conv{number}.conv.{{}}", f"{theirs}{part}.{conv}.{{}}"),
            (f"{_OURS}conv{number}.bn.{{}}", f"{theirs}{part}.{norm}.{{}}"),
        )
    )


_BLOCK = "trunk_output.block{n}.block{-}-{n}."
_LAYER = "encoder.stages.{n}.layers.{n}."

TIMM = KeyMap("timm's RegNet", "s1.b1.conv1.conv.weight", "stem.conv.", templates=IDENTITY, heads=ON_TOP)

TORCHVISION = KeyMap(
    "torchvision's RegNet",
    "trunk_output.block1.block1-0.f.a.0.weight",
    "stem.0.",
    templates=(
        ("stem.conv.{}", "stem.0.{}"),
        ("stem.bn.{}", "stem.1.{}"),
        (_OURS + "downsample.conv.{}", _BLOCK + "proj.0.{}"),
        (_OURS + "downsample.bn.{}", _BLOCK + "proj.1.{}"),
        (_OURS + "se.{}.{}", _BLOCK + "f.se.{}.{}"),
        *_convolutions(_BLOCK, ("f.a", "f.b", "f.c"), "0", "1"),
    ),
    heads=ON_TOP,
    adapt=_counted(0, 1),
)

TRANSFORMERS = KeyMap(
    "transformers' RegNet",
    "encoder.stages.0.layers.0.layer.2.attention.0.weight",
    "embedder.embedder.convolution.",
    templates=(
        ("stem.conv.{}", "embedder.embedder.convolution.{}"),
        ("stem.bn.{}", "embedder.embedder.normalization.{}"),
        (_OURS + "downsample.conv.{}", _LAYER + "shortcut.convolution.{}"),
        (_OURS + "downsample.bn.{}", _LAYER + "shortcut.normalization.{}"),
        (_OURS + "se.fc1.{}", _LAYER + "layer.2.attention.0.{}"),
        (_OURS + "se.fc2.{}", _LAYER + "layer.2.attention.2.{}"),
        *_convolutions(_LAYER, ("layer.0", "layer.1", "layer.3"), "convolution", "normalization"),
    ),
    heads=ON_TOP,
    adapt=_counted(1, 1),
)

KEY_MAPS = (TIMM, TORCHVISION, TRANSFORMERS)
