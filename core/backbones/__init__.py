"""Backbones by family: each file of this folder that defines `FAMILY`, a `base.Family`, is one kind of network.

Nothing else needs to know about it. Names are given to the first family, by file name, that builds them; networks are
found by their class. A network is a plain module with timm's parameter names; `family_of(model)` is everything that
can be asked of it: vectors, tokens, maps, layers.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from core.backbones.base import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    BackboneConfig,
    Dense,
    Family,
    LayerGroups,
    Pooling,
    Tokens,
    architecture_args,
    describe,
    to_metadata,
)
from core.errors import UserError

__all__ = [
    "IMAGENET_MEAN", "IMAGENET_STD", "Backbone", "BackboneConfig", "Dense", "Family", "LayerGroups", "Pooling",
    "Tokens", "architecture_args", "block_modules", "build_backbone", "check_rgb", "check_weights", "describe",
    "families",
    "family_named", "family_of", "feature_width", "fixed_backbone", "input_channels", "pooled_features", "to_metadata",
]  # fmt: skip


def families() -> tuple[Family, ...]:
    """Known families, sorted by file name."""
    return _discover(tuple(__path__))


@lru_cache
def _discover(folders: tuple[str, ...]) -> tuple[Family, ...]:
    names = sorted(module.name for module in pkgutil.iter_modules(folders))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return tuple(module.FAMILY for module in modules if hasattr(module, "FAMILY"))


def family_named(name: str) -> Family:
    """Family that builds the architecture `name`. Raises `UserError` with close names if there is none."""
    found = next((family for family in families() if family.builds(name)), None)
    if found is None:
        close = difflib.get_close_matches(name, [known for family in families() for known in family.names()], n=3)
        titles = ", ".join(family.title for family in families() if family.trainable)
        suggestion = f"; close names: {', '.join(close)}" if close else ""
        raise UserError(f"there is no backbone {name!r} among {titles}{suggestion}")
    return found


def family_of(model: nn.Module) -> Family:
    """Family of a network that `build_backbone` or `fixed_backbone` made."""
    found = next((family for family in families() if family.matches(model)), None)
    assert found is not None, f"no file of core/backbones knows {type(model).__name__}"
    return found


def build_backbone(config: BackboneConfig, drop_path: float = 0.0) -> nn.Module:
    """Randomly initialised network without a classification head (torch's global RNG).

    `drop_path`: stochastic depth rate, 0 … 1. Raises `UserError` for an unknown name, for arguments that don't fit it,
    and for a fixed function, which has no weights to initialise, train or load.
    """
    family = family_named(config.name)
    if not family.trainable:
        raise UserError(f"{describe(config)} has no weights to train or to load; name a network, e.g. resnet50")
    return family.build(config, drop_path)


def fixed_backbone(name: str) -> Backbone | None:
    """Fixed function without weights called `name`, e.g. `pixels`; None where no family has one."""
    family = next((family for family in families() if not family.trainable and family.builds(name)), None)
    if family is None:
        return None
    config = BackboneConfig(name)
    return Backbone(config, family.build(config, 0.0), family.title, {"network": "none"})


def block_modules(model: nn.Module) -> list[nn.Module]:
    """Blocks of a transformer on patches, which are called one after the other; none for other networks."""
    blocks: Any = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or family_of(model).dense != "patches":
        return []
    return list(blocks)


def check_weights(backbone: Backbone, purpose: str) -> None:
    """Raises `UserError` for a fixed function; `purpose` completes "has no weights to …"."""
    if not family_of(backbone.model).trainable:
        raise UserError(f"{describe(backbone.config)} has no weights to {purpose}; pass a checkpoint or timm:NAME")


def check_rgb(backbone: Backbone) -> None:
    """Raises `UserError` for a backbone of other images than RGB, which dense tasks can't read."""
    if backbone.config.in_chans != 3:
        raise UserError(
            f"{describe(backbone.config)} takes {backbone.config.in_chans} channels, and this task is for RGB; take a "
            f"backbone of RGB images"
        )


def feature_width(model: nn.Module, pooling: Pooling = "auto", side: int | None = None) -> int:
    """Length of the vector returned by `pooled_features`; `side` in pixels is needed for raw pixels only."""
    return family_of(model).width(model, pooling, side)


def input_channels(model: nn.Module) -> int:
    """Number of channels of the images that the network takes."""
    return family_of(model).input_channels(model)


def pooled_features(model: nn.Module, images: Tensor, pooling: Pooling = "auto") -> Tensor:
    """One vector per image: [B, 3, H, W] normalised floats -> [B, feature_width(model, pooling)].

    `avg` (networks in stages): what timm's own head sees, i.e. the mean over positions and the head's norm where it has
    one. `cls`: the class token after the final norm; `patches`: the mean patch token; `cls+patches`: both,
    concatenated; `map`: attention pooling (SigLIP). `auto`: the network's default, as timm pools it. Raises `UserError`
    where the pooling doesn't exist for the model.
    """
    return family_of(model).vector(model, images, pooling)
