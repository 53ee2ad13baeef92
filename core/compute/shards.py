"""Parameters that are spread over the processes (torch's FSDP2): each rank keeps its rows of every tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.distributed import in_group


def is_sharded(tensor: Tensor) -> bool:
    """True for a tensor of which this rank has a part."""
    return hasattr(tensor, "to_local")


def local(tensor: Any) -> Tensor:
    """This rank's part, without gradient and in the same memory; a whole tensor as it is."""
    return tensor.detach().to_local() if is_sharded(tensor) else tensor


def gathered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors on the CPU of each rank; all ranks call it."""
    return {name: whole(tensor).cpu() for name, tensor in tensors.items()}


def whole(tensor: Any) -> Tensor:
    """The tensor of all ranks' parts, without gradient; all ranks call it."""
    return tensor.detach().full_tensor() if is_sharded(tensor) else tensor.detach()


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of each tensor, [N]; for sharded ones that of all ranks' parts, and all ranks call it."""
    found = torch.stack(torch._foreach_norm([local(tensor) for tensor in tensors]))
    split = torch.tensor([is_sharded(tensor) for tensor in tensors])
    if in_group() and bool(split.any()):
        split = split.to(found.device, non_blocking=True)
        squares = torch.where(split, found.square(), 0)
        dist.all_reduce(squares)
        found = torch.where(split, squares.sqrt(), found)
    return found


def checkpoint(block: nn.Module) -> None:
    """Keeps only the input of a block for the backward pass, which computes the rest again."""
    from torch.utils.checkpoint import checkpoint as recomputed

    block.forward = partial(recomputed, block.forward, use_reentrant=False)


def shard(blocks: Iterable[nn.Module], device: torch.device, narrow: torch.dtype | None) -> None:
    """Shards each block over all processes. Its parameters are whole only while it computes.

    `narrow`: dtype in which parameters travel and compute; the kept ones and the sums of gradients stay fp32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks:
        fully_shard(
            block, mesh=mesh, reshard_after_forward=True, mp_policy=policy if narrow else MixedPrecisionPolicy()
        )


def save_tensors(folder: str, tensors: dict[str, Tensor]) -> None:
    """Writes each rank's parts as safetensors (torch's distributed checkpoint); all ranks call it."""
    import torch.distributed.checkpoint as dcp

    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    dcp.save(plain, storage_writer=dcp.HuggingFaceStorageWriter(folder, save_distributed=True))


def load_tensors(folder: str, tensors: dict[str, Tensor]) -> None:
    """Fills the tensors from a folder of `save_tensors`, written by any number of ranks; all ranks call it."""
    import torch.distributed.checkpoint as dcp

    plain: dict[str, Any] = {name: tensor.detach() for name, tensor in tensors.items()}
    dcp.load(plain, storage_reader=dcp.HuggingFaceStorageReader(folder))
