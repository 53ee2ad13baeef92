"""Sharding of a method: the blocks of online and momentum network over all processes (`compute.shard`)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from core.backbones import block_modules, describe
from core.checkpoints import training_states
from core.compute import shards
from core.distributed import Processes, wait_for_all
from core.errors import UserError
from pretrain.config import PretrainConfig
from pretrain.method import Method


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Blocks of the backbone of the online or the momentum network."""
    return block_modules(network.get_submodule("backbone"))


def check_blocks(config: PretrainConfig, backbone: nn.Module) -> None:
    """Raises `UserError` where `compute.shard` or `.checkpointing` needs blocks or processes that aren't there."""
    compute = config.compute
    keys = {"compute.shard=fsdp2": compute.shard != "none", "compute.checkpointing": compute.checkpointing}
    for key, asked in keys.items():
        if asked and not block_modules(backbone):
            raise UserError(f"{key} is about the blocks of a ViT, and the backbone is {describe(config.backbone)}")
    if compute.shard != "none" and not torch.distributed.is_initialized():
        raise UserError("compute.shard=fsdp2 needs torchrun, e.g. torchrun --nproc-per-node 2 pretrain/run.py …")


def prepare_blocks(method: Method) -> None:
    """Checkpoints, compiles and shards the blocks as `compute` asks; to be called once all ranks have equal weights."""
    compute = method.config.compute
    sharded = compute.shard != "none"
    if sharded and compute.compile:
        for block in (block for network in method.networks() for block in blocks_of(network)):
            block.forward = torch.compile(block.forward)
    if compute.checkpointing:
        for block in blocks_of(method.online):
            shards.checkpoint(block)
    if not sharded:
        return
    # On CPUs, autocast gives layer norms fp32 inputs, with which bf16 weights don't go.
    narrow = torch.bfloat16 if compute.precision == "bf16" and method.device.type == "cuda" else None
    for network in method.networks():
        shards.shard(blocks_of(network), method.device, narrow)
    method.pair_averages()


def named_tensors(method: Method, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors of networks and optimiser by name, for a distributed checkpoint."""
    found = dict(_of_networks(method))
    for name, parameter in method.online.named_parameters():
        if parameter.requires_grad:
            found |= {f"optimiser.{name}.{key}": value for key, value in _moments(optimiser, parameter).items()}
    return found


def _of_networks(method: Method) -> Iterator[tuple[str, Tensor]]:
    for title, network in zip(("online", "target"), method.networks(), strict=False):
        for name, tensor in network.state_dict().items():
            yield f"{title}.{name}", tensor


def _moments(optimiser: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """AdamW's state of a parameter, made where no step was taken yet."""
    state = optimiser.state[parameter]
    if not state:
        state["step"] = torch.tensor(0.0)
        state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return state


def folder_of(checkpoints: Path, step: int) -> Path:
    """Folder of the tensors of the state after `step` steps, beside its file."""
    return checkpoints / f"step_{step:09d}.shards"


def remove_left_over(checkpoints: Path, processes: Processes) -> None:
    """Removes the folders whose states are gone, or were never finished; all ranks call it."""
    if processes.is_main:
        kept = {path.stem for path in training_states(checkpoints)}
        for folder in checkpoints.glob("step_*.shards"):
            if folder.stem not in kept:
                shutil.rmtree(folder)
    wait_for_all()


def save(folder: Path, method: Method, optimiser: torch.optim.Optimizer) -> None:
    """Writes the networks and the optimiser's state; all ranks call it."""
    shards.save_tensors(str(folder), named_tensors(method, optimiser))


def load(folder: Path, method: Method, optimiser: torch.optim.Optimizer) -> None:
    """Reads what `save` wrote, by any number of ranks. Raises `UserError` for a damaged folder; all ranks call it."""
    try:
        shards.load_tensors(str(folder), named_tensors(method, optimiser))
    except Exception as error:  # the distributed checkpoint wraps what a file raises on any rank
        raise UserError(f"{folder} can't be read ({type(error).__name__}: {str(error).splitlines()[-1]})") from None


def whole_backbones(method: Method) -> list[dict[str, Tensor]]:
    """Weights of online and momentum backbone, gathered on every rank; all ranks call it."""
    return [shards.gathered(network.backbone.state_dict()) for network in method.networks()]  # type: ignore[union-attr]
