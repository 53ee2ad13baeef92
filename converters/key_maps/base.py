"""Key maps: one table of names per library and kind of network, used for reading its files and for writing them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from core.backbones.positions import PosResize

Rgb = tuple[float, float, float]

_PLACEHOLDERS = {"{}": r"(\w+)", "{n}": r"(\d+)", "{*}": "(.+)", "{-}": r"\d+"}

IDENTITY = (("{*}", "{*}"),)
"""Templates of a library that shares timm's names."""

ON_TOP = {
    r"(fc|head|heads|head_dist|classifier|linear|last_linear|cls_head)\.": "head or projector on top of the backbone",
    r"(projector|projection_head|projection|neck)\.": "projector",
    r"(predictors?|prediction_head)\.": "predictor",
    r"(prototypes|queue)": "bookkeeping of the method",
}
"""Patterns of names beside or on top of any backbone -> why they are not part of it."""

MASKED = {
    r"(decoder|mask_token)": "decoder of a masked autoencoder",
    r"masked_embed": "embedding of masked patches",
}
"""The same for masked image modelling with ViTs."""


@dataclass(frozen=True)
class KeyMap:
    """The names of one library for the tensors of one kind of network."""

    name: str
    """Library that uses these names, for messages."""
    anchor_key: str
    """Name of a tensor of the first block. A network is present where this key is found …"""
    required_prefix: str
    """… together with a key that starts with this (the first convolution)."""
    templates: tuple[tuple[str, str], ...] = IDENTITY
    """Rows of (our name, which is timm's; their name). `{}` matches a part of a name or a piece of one, `{n}` a number,
    `{*}` the whole rest; both sides have the same placeholders in the same order. `{-}`, on their side only, matches a
    number that our name lacks; such a row is used for reading alone. The first row that matches decides."""
    note: str = ""
    """Assumptions about what the weights do not show."""
    heads: Mapping[str, str] = field(default_factory=dict)
    """Pattern for the start of names that are not part of the backbone -> why."""
    adapt: Callable[[dict[str, Tensor]], str] | None = None
    """Changes tensors under timm's names, in place, where the library computes the same from other numbers; returns
    what it did, or an empty string."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of timm's model that these networks have and the weights don't show."""
    statistics: tuple[Rgb, Rgb] | None = None
    """Mean and standard deviation (RGB, 0 … 1) with which the project trains all of these networks; None: they vary."""
    positions: PosResize = "timm"
    """Rule by which the library resizes position embeddings; with register tokens `dinov2` is `dinov2_antialias`."""
    needs: tuple[str, ...] = ()
    """timm's names of tensors that all these networks have and other networks may lack: without them it is damaged."""
    refusal: str = ""
    """Why such networks cannot be converted; empty where they can."""

    def to_timm(self, name: str) -> str | None:
        """timm's name of a tensor that the library calls `name`; None if no row matches."""
        return _translate(name, tuple((theirs, ours) for ours, theirs in self.templates))

    def from_timm(self, name: str) -> str | None:
        """The library's name of a tensor that timm calls `name`; None if the library has no place for it."""
        return _translate(name, tuple(row for row in self.templates if "{-}" not in row[1]))

    def reason_to_drop(self, name: str) -> str | None:
        """Why a tensor below the backbone's prefix is not part of it; None if it is not known to be."""
        return next((why for pattern, why in self.heads.items() if re.match(pattern, name)), None)

    def role_of(self, name: str) -> str:
        """Role of a tensor outside the backbone's prefix."""
        found = (why for pattern, why in self.heads.items() if re.search(rf"(^|[._]){pattern}", name))
        return next(found, "outside the backbone")


def _translate(name: str, rows: tuple[tuple[str, str], ...]) -> str | None:
    for source, destination in rows:
        if match := _pattern(source).fullmatch(name):
            return re.sub(r"\{[*n]\}", "{}", destination).format(*match.groups())
    return None


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    pieces = re.split(r"(\{[*n-]?\})", template)
    return re.compile("".join(_PLACEHOLDERS.get(piece) or re.escape(piece) for piece in pieces))
