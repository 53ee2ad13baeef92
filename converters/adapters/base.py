"""Interface of an adapter, and what adapters share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from converters.key_maps.base import KeyMap
from core.backbones import Backbone, describe, family_of
from core.checkpoints import read_safetensors, read_tensors
from core.errors import UserError
from core.files.atomic_file import write_atomically

TENSOR_FILES = (".pth", ".pt", ".safetensors")


class Adapter(ABC):
    """How one kind of backbone is written for one library; stateless."""

    library: str
    """Value of `--to`."""
    native: bool = True
    """True for a network of the library's own, false for one that wraps timm's."""
    suffixes: tuple[str, ...] = TENSOR_FILES
    """Endings of the file; empty where a folder is written."""
    left_out: str = "the library's network has no place for it"
    """Why a tensor that `write` does not name is not in the file."""

    @abstractmethod
    def fits(self, backbone: Backbone) -> bool:
        """True for the kind of backbone that it is made for."""

    @abstractmethod
    def check(self, backbone: Backbone) -> None:
        """Raises `UserError` for a backbone of the kind that the library's network can't be."""

    @abstractmethod
    def write(self, backbone: Backbone, out: Path) -> dict[str, str]:
        """Writes the file or folder; returns timm's name -> the library's for every tensor in it."""

    @abstractmethod
    def usage(self, backbone: Backbone, out: Path) -> str:
        """Instructions for loading it in the library, with the settings whose defaults would be wrong."""

    @abstractmethod
    def verify(self, backbone: Backbone, out: Path) -> str:
        """One sentence about what was compared, and the largest difference. Raises `UserError` for a difference."""


def is_timms(backbone: Backbone) -> bool:
    """True for timm's networks with feature maps; those without, and networks of the user's own, exist here alone."""
    family = family_of(backbone.model)
    return family.dense != "none" and family.architecture != "own"


def names_by(key_map: KeyMap, backbone: Backbone, library: str) -> dict[str, str]:
    """timm's name -> the key map's for every tensor. Raises `UserError` for those without a place."""
    found = {name: key_map.from_timm(name) for name in backbone.model.state_dict()}
    left = [name for name, new in found.items() if new is None]
    if left:
        raise UserError(
            f"{library} has no place for {len(left)} tensors of {describe(backbone.config)}: {', '.join(left[:3])}"
            f"{', …' if len(left) > 3 else ''}"
        )
    return {name: new for name, new in found.items() if new is not None}


def renamed(backbone: Backbone, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The backbone's tensors under the names that `names` gives them."""
    state = backbone.model.state_dict()
    return {new: state[name] for name, new in names.items()}


def write_tensors(out: Path, tensors: Mapping[str, Tensor]) -> None:
    """A file of tensors alone: safetensors by that ending, else torch's own."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if out.suffix == ".safetensors":
        from safetensors.torch import save_file

        write_atomically(out, lambda partial: save_file(dict(plain), partial))
    else:
        write_atomically(out, lambda partial: torch.save(plain, partial))


def read_written(out: Path) -> dict[str, Tensor]:
    """Tensors of a file of `write_tensors`."""
    return read_safetensors(out)[0] if out.suffix == ".safetensors" else read_tensors(out)


def times_255(values: tuple[float, ...]) -> list[float]:
    """Mean or deviation of image values in 0 … 1 for those in 0 … 255."""
    return [round(255 * value, 3) for value in values]
