"""The description of one kind of network: how to tell it by its tensors' names, and its sizes by their shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from converters.inference.hints import Hints
from core.backbones import BackboneConfig

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Inference:
    """One kind of network under timm's names."""

    marks: tuple[str, ...]
    """Names that are all present."""
    config: Callable[[Tensors, Hints], tuple[BackboneConfig, str]]
    """Architecture, and a note on what is assumed. Raises `KeyError` or `IndexError` where a tensor is missing or has
    too few dimensions, `UserError` where the shapes don't show the architecture."""
    absent: tuple[str, ...] = ()
    """Names of which none is present."""
    pattern: str = ""
    """Regular expression that some name matches; empty for none."""

    def matches(self, tensors: Tensors) -> bool:
        """True if the tensors are of this kind."""
        present = all(name in tensors for name in self.marks) and not any(name in tensors for name in self.absent)
        return present and (not self.pattern or any(re.match(self.pattern, name) for name in tensors))


def count(tensors: Tensors, pattern: str) -> int:
    """One more than the largest number that `pattern`, with one group, finds at the start of a name."""
    return 1 + max((int(match[1]) for name in tensors if (match := re.match(pattern, name))), default=-1)


def depths_of(tensors: Tensors, stages: str) -> list[int]:
    """Number of blocks of each stage, for names such as `layers.0.blocks.1.…`; `stages` is their first word."""
    number = count(tensors, rf"{stages}\.(\d{{1,2}})\.blocks\.")
    return [count(tensors, rf"{stages}\.{stage}\.blocks\.(\d{{1,3}})\.") for stage in range(number)]


def assumed_heads(width: int, known: Mapping[int, int]) -> tuple[int, str]:
    """Number of attention heads of a transformer, and a note where it is an assumption."""
    if width in known:
        return known[width], ""
    heads = max(1, width // 64)
    return heads, f"{heads} attention heads assumed, the weights don't show them"


def changed(args: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that differ from those of timm's model."""
    return {key: value for key, value in args.items() if key not in defaults or defaults[key] != value}


def any_channels(name: str, args: dict[str, Any], stem: Any = "imagenet") -> BackboneConfig:
    """Config whose mean and std are 0 and 1 where the channels are not RGB; they must be given."""
    channels = args.get("in_chans", 3)
    if channels == 3:
        return BackboneConfig(name, args, stem)
    return BackboneConfig(name, args, stem, mean=(0.0,) * channels, std=(1.0,) * channels)
