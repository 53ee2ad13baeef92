"""A network of the user's own: any module that gives one vector, tokens or a map per image."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.backbones.base import BackboneConfig, Family, Pooling
from core.errors import UserError, first_line

_SIDE = 224
_MOST_PREFIX = 8
_STRIDES = range(2, 65)


class OwnNetwork(nn.Module):
    """The module, and what it gives for images of `side` pixels."""

    def __init__(self, module: nn.Module, side: int) -> None:
        """Runs it on two blank images. Raises `UserError` for another output than [B, D], [B, N, D], [B, C, h, w]."""
        super().__init__()
        self.module = module
        with torch.inference_mode():
            try:
                found = module.eval()(torch.zeros(2, 3, side, side))
            except Exception as error:  # whatever the user's code raises
                raise UserError(
                    f"the network can't take two images of {side}×{side} pixels ({type(error).__name__}: "
                    f"{first_line(error)}); give it an attribute image_size"
                ) from None
        if not isinstance(found, Tensor) or found.ndim not in (2, 3, 4) or len(found) != 2:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UserError(f"the network must give [B, D], [B, N, D] or [B, C, h, w] for 2 images, not {shape}")
        self.kind = {2: "vector", 3: "tokens", 4: "map"}[found.ndim]
        self.features = int(found.shape[-1] if found.ndim < 4 else found.shape[1])
        self.prefix = grid_of(found.shape[1], (side, side))[0] if self.kind == "tokens" else 0

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> what the module gives."""
        return self.module(images)


def grid_of(tokens: int, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """Number of prefix tokens, at most 8, and rows and columns of patches, of `tokens` for images of `size` pixels.

    Raises `UserError` where no square patch, or more than one, gives that number.
    """
    found = []
    for stride in _STRIDES:
        if size[0] % stride == 0 and size[1] % stride == 0:
            grid = (size[0] // stride, size[1] // stride)
            if grid[0] * grid[1] > 1 and 0 <= tokens - grid[0] * grid[1] <= _MOST_PREFIX:
                found.append((tokens - grid[0] * grid[1], grid))
    if len(found) != 1:
        readings = " or ".join(f"{prefix} and {h}×{w}" for prefix, (h, w) in found) or "no grid of square patches"
        raise UserError(
            f"{tokens} tokens for images of {size[0]}×{size[1]} pixels are {readings}; return a map [B, C, h, w]"
        )
    return found[0]


def load(file: Path, function: str) -> OwnNetwork:
    """The network that `function` in `file`, which is run, returns. Raises `UserError`."""
    if not file.is_file():
        raise UserError(f"no file {file}; --ckpt module:FILE.py:FUNCTION names a file and a function in it")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is not a Python file; --ckpt module:FILE.py:FUNCTION runs one")
    code = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.resolve().parent))
    try:
        spec.loader.exec_module(code)
        made = getattr(code, function)()
    except Exception as error:  # whatever the user's code raises
        raise UserError(f"{function}() of {file} fails ({type(error).__name__}: {first_line(error)})") from None
    finally:
        sys.path.remove(str(file.resolve().parent))
    if not isinstance(made, nn.Module):
        raise UserError(f"{function}() of {file} returns a {type(made).__name__}, not a torch.nn.Module")
    return OwnNetwork(made, int(getattr(made, "image_size", _SIDE)))


class Own(Family):
    """The module's vector, its first token or its mean patch token, or the mean over its map."""

    title = "networks of your own"
    noun = "a network of your own"
    vector_name = "the network's vector"
    architecture = "own"
    dense = "stages"

    def builds(self, name: str) -> bool:
        return False  # a name in a file must never run code; `load` does, for the command line

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, OwnNetwork)

    def build(self, config: BackboneConfig, drop_path: float) -> nn.Module:
        raise UserError("a network of your own is opened as module:FILE.py:FUNCTION alone")

    def poolings(self, model: Any) -> tuple[Pooling, ...]:
        if model.kind != "tokens":
            return ("avg",)
        return ("cls", "patches", "cls+patches") if model.prefix else ("patches",)

    def width(self, model: Any, pooling: Pooling, side: int | None) -> int:
        return model.features * (2 if pooling == "cls+patches" else 1)

    def vector(self, model: Any, images: Tensor, pooling: Pooling) -> Tensor:
        pooling = self.resolve_pooling(model, pooling)
        found = model(images)
        if found.ndim == 2:
            return found
        if found.ndim == 4:
            return found.mean(dim=(2, 3))
        parts = [found[:, 0]] if pooling != "patches" else []
        parts += [found[:, model.prefix :].mean(dim=1)] if pooling != "cls" else []
        return torch.cat(parts, dim=1)

    def maps(self, model: Any, images: Tensor, taps: Sequence[int] | None = None) -> list[tuple[int, Tensor]]:
        found = model(images)
        if found.ndim == 2:
            raise UserError("the network gives one vector per image, and dense tasks need tokens or a map")
        if found.ndim == 3:
            prefix, grid = grid_of(found.shape[1], (images.shape[-2], images.shape[-1]))
            found = found[:, prefix:].transpose(1, 2).unflatten(2, grid)
        return [(images.shape[-1] // found.shape[-1], found)]

    def channels(self, model: Any) -> list[int]:
        return [] if model.kind == "vector" else [model.features]

    def image_side(self, model: Any) -> int | None:
        side = getattr(model.module, "image_size", None)
        return int(side) if side is not None else None


FAMILY = Own()
