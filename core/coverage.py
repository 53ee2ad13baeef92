"""Loading weights with an account of every tensor: silent partial loading is the field's oldest trap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.backbones import BackboneConfig, build_backbone
from core.compute.shapes import nothing_drawn, shapes_only
from core.errors import UserError


@dataclass(frozen=True)
class Coverage:
    """Outcome for each tensor of a file and of the model it is loaded into."""

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
        """True if every tensor was matched, in both directions."""
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

    Raises `UserError` with the four counts where anything is left over on either side, and where a tensor isn't a plain
    one, is of another kind of number than its place, or holds values that are not finite there. `source` names the
    file in the message.
    """
    coverage = _complete(model, state, source)
    own = model.state_dict()
    for name, tensor in state.items():
        place = own[name]
        if tensor.is_floating_point() != place.is_floating_point() or tensor.is_complex():
            raise UserError(
                f"{source} holds {name} as {_short(tensor)}, where {_short(place)} belongs; save the weights as "
                f"floating-point numbers"
            )
        # Finite where it is going to be used: 1e300 is not, as float32.
        if place.is_floating_point() and not bool(torch.isfinite(tensor.to(place.dtype)).all()):
            raise UserError(f"{source} holds values that are not finite in {name}; the file is damaged or diverged")
    model.load_state_dict(dict(state), strict=True)
    return coverage


def build_and_load(config: BackboneConfig, state: Mapping[str, Tensor], source: str) -> tuple[nn.Module, Coverage]:
    """The backbone with `state` as its weights, as `load_completely` has it.

    What a file says of its architecture reserves no memory: the weights are compared with a sketch of the network
    first, and they must be as large as they say.
    """
    check_plain(state, source)
    with shapes_only():
        sketch = build_backbone(config)
    _complete(sketch, state, source)
    with nothing_drawn():
        model = build_backbone(config)
    return model, load_completely(model, state, source)


def check_plain(state: Mapping[str, Tensor], source: str) -> None:
    """Raises `UserError` for sparse, quantised or absent tensors, and for those that share or repeat their numbers."""
    held: dict[int, int] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"{source} holds a {type(tensor).__name__} for {name}, not a tensor; save the state dict")
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise UserError(f"{source} holds {name} as no plain tensor of numbers; save it as one")
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = max(storage.nbytes(), held.get(storage.data_ptr(), 0))
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if claimed > sum(held.values()):
        raise UserError(
            f"{source} holds tensors of {claimed:,} bytes that share or repeat {sum(held.values()):,}; save copies "
            f"(tensor.clone())"
        )


def _complete(model: nn.Module, state: Mapping[str, Tensor], source: str) -> Coverage:
    coverage = compare(model, state)
    if not coverage.complete:
        raise UserError(f"{source} does not cover the backbone: {coverage.summary()}")
    return coverage


def _short(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
