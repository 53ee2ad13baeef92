"""Frozen backbones that are larger than the device: blocks stay in a file of the disk and come one at a time."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.backbones import Backbone, block_modules, describe
from core.distributed import gather_objects, in_group, wait_for_all
from core.errors import UserError
from core.files.cache_folder import cache_folder


def stream_blocks(backbone: Backbone, device: torch.device) -> None:
    """Moves a frozen network to the device, but for its blocks: each is there only while it computes.

    The blocks' weights go to a safetensors file in the cache folder, from which they are mapped into memory: the system
    may drop them again. It has no name any more once all ranks have opened it. The arithmetic stays the same, bit by
    bit. Costs one reading of all blocks per batch; larger batches hide it. All ranks call it. Raises `UserError` for a
    backbone without blocks.
    """
    blocks = block_modules(backbone.model)
    if not blocks:
        raise UserError(
            f"--stream-blocks is about the blocks of a ViT, and the backbone is {describe(backbone.config)}"
        )
    map_from_file(blocks)
    visit_device(backbone.model, blocks, device)


def visit_device(model: nn.Module, blocks: list[nn.Module], device: torch.device) -> None:
    """Moves a network to the device, but for the weights of its blocks, which go there and back with each pass."""
    inside = {id(part) for block in blocks for part in block.modules()}
    for part in model.modules():
        if id(part) not in inside:
            _place(part, {name: tensor.to(device) for name, tensor in _own(part).items()})
    for block in blocks:
        if device.type != "cpu":
            _Visit(block, device)


class _Visit:
    """Hooks that bring a block's weights to the device before it computes, and let go of them after it."""

    def __init__(self, block: nn.Module, device: torch.device) -> None:
        self._device = device
        self._home = [(part, _own(part)) for part in block.modules()]
        block.register_forward_pre_hook(self._arrive)
        block.register_forward_hook(self._leave, always_call=True)

    def _arrive(self, *_: object) -> None:
        for part, tensors in self._home:
            _place(part, {name: tensor.to(self._device, non_blocking=True) for name, tensor in tensors.items()})

    def _leave(self, *_: object) -> None:
        for part, tensors in self._home:
            _place(part, tensors)


def map_from_file(blocks: list[nn.Module]) -> None:
    """Replaces the weights of the blocks by the same ones, mapped from a file; all ranks call it."""
    from safetensors.torch import save_file

    main = not in_group() or torch.distributed.get_rank() == 0
    folder = Path(tempfile.mkdtemp(prefix="blocks-", dir=_made(cache_folder()))) if main else None
    folder = gather_objects(folder)[0]
    assert folder is not None
    path = folder / "blocks.safetensors"
    parts = {f"{number}.{name}": part for number, block in enumerate(blocks) for name, part in block.named_modules()}
    if main:
        tensors = {f"{at}:{name}": tensor for at, part in parts.items() for name, tensor in _own(part).items()}
        save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path)
    wait_for_all()
    mapped = _mapped(path)
    for at, part in parts.items():
        _place(
            part,
            {name: mapped[f"{at}:{name}"].view(tensor.dtype).view(tensor.shape) for name, tensor in _own(part).items()},
        )
    wait_for_all()
    if main:
        path.unlink()
        folder.rmdir()


def _mapped(path: Path) -> dict[str, Tensor]:
    """Bytes of each tensor of a safetensors file, mapped into memory: uint8 [bytes].

    The file: length of the header in 8 bytes, the header in JSON with `data_offsets` behind it, the data.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    storage: Any = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
    data = torch.empty(0, dtype=torch.uint8).set_(storage)[8 + length :]
    return {name: data[slice(*about["data_offsets"])] for name, about in header.items() if name != "__metadata__"}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _own(part: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a module itself."""
    tensors = {**dict(part.named_parameters(recurse=False)), **dict(part.named_buffers(recurse=False))}
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _place(part: nn.Module, tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if name in part._parameters:
            part._parameters[name] = nn.Parameter(tensor, requires_grad=False)
        else:
            part._buffers[name] = tensor
