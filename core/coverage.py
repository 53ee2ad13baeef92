"""Loading weights with an account of every tensor: silent partial loading is the field's oldest trap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.errors import UserError


@dataclass(frozen=True)
class Coverage:
    """What became of each tensor when a file met a model."""

    matched: tuple[str, ...]
    """Tensors of the model that the file covers with the right shape."""
    missing: tuple[str, ...]
    """Tensors of the model that the file lacks."""
    unexpected: tuple[str, ...]
    """Tensors of the file for which the model has no place."""
    misshaped: tuple[str, ...]
    """`name: shape in the file, not shape in the model`."""

    @property
    def complete(self) -> bool:
        """Whether every tensor found its place, in both directions."""
        return not (self.missing or self.unexpected or self.misshaped)

    def summary(self) -> str:
        """One line: the four counts, and the first names of what went wrong."""
        line = (
            f"{len(self.matched)} matched, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.misshaped)} mis-shaped"
        )
        for kind, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("mis-shaped", self.misshaped),
        ):
            if names:
                line += f"; {kind}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
        return line


def compare(model: nn.Module, state: Mapping[str, Tensor]) -> Coverage:
    """Compares names and shapes of `state` with those of `model`."""
    own = model.state_dict()
    return Coverage(
        matched=tuple(name for name in own if name in state and state[name].shape == own[name].shape),
        missing=tuple(name for name in own if name not in state),
        unexpected=tuple(name for name in state if name not in own),
        misshaped=tuple(
            f"{name}: {list(state[name].shape)}, not {list(own[name].shape)}"
            for name in own
            if name in state and state[name].shape != own[name].shape
        ),
    )


def load_completely(model: nn.Module, state: Mapping[str, Tensor], source: str) -> Coverage:
    """Loads `state` into `model`, all of it or nothing.

    Raises `UserError` with the four counts where anything is left over on either side, and where a tensor
    holds values that are not finite. `source` names the file in the message.
    """
    coverage = compare(model, state)
    if not coverage.complete:
        raise UserError(f"{source} does not cover the backbone: {coverage.summary()}")
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{source} holds values that are not finite in {name}; the file is damaged or diverged")
    model.load_state_dict(dict(state), strict=True)
    return coverage
