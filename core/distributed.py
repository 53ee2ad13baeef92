"""Processes: alone, or many under torchrun (NCCL on GPUs, gloo on CPUs), on one host or several."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.errors import UserError


@dataclass(frozen=True)
class Processes:
    """This process among its peers."""

    rank: int
    """0 … world − 1 over all hosts; rank 0 writes and prints."""
    world_size: int
    """Number of processes."""
    device: torch.device
    """The device of this process: its own GPU, or the CPU."""

    @property
    def is_main(self) -> bool:
        """True for the process that writes files and prints."""
        return self.rank == 0


def init_distributed(device: str = "auto") -> Processes:
    """Joins the group that torchrun announces in the environment, or stands alone.

    `device`: `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`. Raises `UserError` for a GPU that
    isn't there and for half-set torchrun variables.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _device(device, local_rank)
    if "RANK" not in os.environ:
        return Processes(0, 1, chosen)
    missing = [key for key in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if key not in os.environ]
    if missing:
        raise UserError(f"RANK is set but {', '.join(missing)} not; start several processes with torchrun")
    if not dist.is_initialized():
        store, rank, world = next(dist.rendezvous("env://"))
        # torchrun keeps its store over restarts, with the addresses of the processes that are gone.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo",
            store=dist.PrefixStore(f"attempt {attempt}", store),
            rank=rank,
            world_size=world,
            timeout=timedelta(minutes=30),
            device_id=chosen if chosen.type == "cuda" else None,
        )
        atexit.register(_leave)
    return Processes(dist.get_rank(), dist.get_world_size(), chosen)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _device(device: str, local_rank: int) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(f"device must be one of auto, cpu, cuda, cuda:N, not {device!r}") from None
    if chosen.type not in ("cpu", "cuda"):
        raise UserError(f"device must be one of auto, cpu, cuda, cuda:N, not {device!r}")
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"device {device!r} asked for, but torch sees no GPU; use --device cpu")
        chosen = torch.device("cuda", chosen.index if chosen.index is not None else local_rank)
        if chosen.index >= torch.cuda.device_count():
            raise UserError(f"device {chosen} asked for, but there are {torch.cuda.device_count()} GPUs")
        torch.cuda.set_device(chosen)
    return chosen


_apart: list[bool] = []


def in_group() -> bool:
    """True if there are other processes in the group."""
    return not _apart and dist.is_initialized() and dist.get_world_size() > 1


@contextmanager
def apart() -> Iterator[None]:
    """Context in which a process computes as if it were alone, e.g. what the others need not."""
    _apart.append(True)
    try:
        yield
    finally:
        _apart.pop()


def gather_rows(rows: Tensor) -> Tensor:
    """Stacks the equally long [B, …] tensors of all ranks in rank order: [world · B, …]; no gradient flows back."""
    if not in_group():
        return rows.detach()
    gathered = rows.new_empty((dist.get_world_size() * rows.shape[0], *rows.shape[1:]))
    dist.all_gather(list(gathered.chunk(dist.get_world_size())), rows.detach().contiguous())
    return gathered


class _GatherRows(torch.autograd.Function):
    """All-gather whose gradient is the sum of the ranks' gradients: the losses of all ranks depend on each row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return gather_rows(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather_rows_with_gradient(rows: Tensor) -> Tensor:
    """As `gather_rows`, with gradients: with losses averaged over ranks and `average_gradients`, they are those of one
    process."""
    return _GatherRows.apply(rows) if in_group() else rows


def sum_over_ranks(values: Tensor) -> Tensor:
    """The elementwise sum over ranks; a new tensor."""
    total = values.detach().clone()
    if in_group():
        dist.all_reduce(total)
    return total


def gather_objects(value: Any) -> list[Any]:
    """The small plain `value` of every rank, in rank order."""
    if not in_group():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def raise_on_all_ranks(refused: str) -> None:
    """Raises `UserError(refused)` on every rank if rank 0 passes a sentence, so that no rank waits for a dead one.

    All ranks call it; the arguments of other ranks are ignored.
    """
    if refused := gather_objects(refused)[0]:
        raise UserError(refused)


def wait_for_all() -> None:
    """Returns once every rank is here."""
    if in_group():
        dist.barrier()


def broadcast_weights(module: nn.Module) -> None:
    """Gives every rank the parameters and buffers of rank 0."""
    if in_group():
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, src=0)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces each gradient by its mean over ranks, in one all-reduce per dtype.

    Called once after the last backward pass of a step. A view's backward pass touches the predictor of its own
    type only; reducing after all of them needs neither a search for unused parameters nor a graph that is the
    same each step. Parameters without a gradient take part with zeros where another rank has one.
    """
    if not in_group():
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_dtype.values():
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(
            gradients, [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
        )


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Rank 0 runs the block before the others do: for caches that one process should fill.

    An exception on rank 0 lets the others run the block, too, instead of leaving them in the barrier.
    """
    if in_group() and dist.get_rank() != 0:
        dist.barrier()
    try:
        yield
    finally:
        if in_group() and dist.get_rank() == 0:
            dist.barrier()
