"""Folders as the Hugging Face hub stores them: one weights file or several shards, and JSON files beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from core.checkpoints import read_safetensors, read_tensors
from core.errors import UserError

_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SETTINGS = ("config.json", "open_clip_config.json")
_MAX_BYTES = 2**24


def weights_in(folder: Path) -> Path | None:
    """Weights file, or index of shards, of a folder of the hub; None if it holds none.

    Raises `UserError` where the settings are missing that say which network the weights are.
    """
    found = next((folder / name for name in (*_FILES, *_INDICES) if (folder / name).is_file()), None)
    if found is not None and not any((folder / name).is_file() for name in _SETTINGS):
        raise UserError(
            f"{folder} holds {found.name} and no config.json, which says what network that is; download it too, or "
            f"pass {found} to have the network taken from the shapes"
        )
    return found


def is_index(path: Path) -> bool:
    """True for the index of a file in shards."""
    return path.name.endswith(".index.json")


def read_shards(index: Path) -> dict[str, Tensor]:
    """Tensors of all shards that the index names. Raises `UserError` for a missing shard or tensor."""
    try:
        if index.stat().st_size > _MAX_BYTES:
            raise UserError(f"{index} is larger than {_MAX_BYTES:,} bytes, the limit for an index; download it again")
        places: Any = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        wanted = {str(name): str(file) for name, file in places.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{index} is not a readable index of shards ({error}); download it again") from None
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(wanted.values())):
        shard = index.parent / file
        if not file or "/" in file or not shard.is_file():
            raise UserError(f"{index.parent} lacks the shard {file} that {index.name} names; download it too")
        held = read_safetensors(shard)[0] if shard.suffix == ".safetensors" else read_tensors(shard, foreign=True)
        for name in (name for name, place in wanted.items() if place == file):
            if name not in held or not isinstance(held[name], Tensor):
                raise UserError(f"{shard} lacks {name}, which {index.name} places there; download it again")
            tensors[name] = held[name]
    return tensors
