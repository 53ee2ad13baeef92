"""Memory plan of a run: a whole step on tensors without memory, before anything is computed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.compute.footprint import Footprint, fake_tensors, without_memory
from core.compute.shapes import shapes_only
from core.compute.shards import checkpoint
from core.distributed import Processes, apart
from pretrain.build_losses import loss_draws
from pretrain.config import PretrainConfig
from pretrain.large.sharding import blocks_of
from pretrain.losses.base import Parameters, Progress
from pretrain.method import Method, Pass
from pretrain.optimisers import build_optimiser, clip_gradients
from pretrain.views.dataset import draw_photometric


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that one process needs."""

    batch: int
    """Images of a process."""
    parameters: int
    """Online and momentum network, with their buffers."""
    gradients: int
    """Gradients of the online network."""
    exchange: int
    """Gradients on their way to other processes."""
    states: int
    """State of the optimiser."""
    views: int
    """Images of all views, normalised."""
    passes: dict[str, int]
    """Activations that are kept for each backward pass, by the terms of the loss that it starts from."""
    peak: int
    """Largest sum over a step: the above, and what operations need in between."""

    def fits(self, memory: int) -> int:
        """Images of a process that fit into `memory` bytes, if all else stays: 0 where not even one does."""
        fixed = self.parameters + self.gradients + self.exchange + self.states
        each = max(self.peak - fixed, 1) / self.batch
        return max(0, int((memory - fixed) / each))


def memory_plan(config: PretrainConfig, processes: Processes) -> MemoryPlan:
    """Plan of the run's processes, which are alike. A step's shapes are followed, and no value is computed.

    Workspaces of libraries (cuDNN, oneDNN), the allocator's reserve and the CUDA context come on top.
    """
    compute = dataclasses.replace(config.compute, compile=False, sync_bn=False)
    config = dataclasses.replace(config, compute=compute)
    batch = config.batch // processes.world_size
    with torch.random.fork_rng(devices=[]), apart():
        with shapes_only():
            method = Method(config, torch.device("meta"))
        with fake_tensors():
            for module in [*method.networks(), *method.losses().values()]:
                without_memory(module)
            method.device = torch.device("cpu")
            if config.compute.checkpointing:
                for block in blocks_of(method.online):
                    checkpoint(block)
            plan = _step(config, method, batch, several=processes.world_size > 1)
        return _sharded(plan, method, processes.world_size) if config.compute.shard != "none" else plan


def _sharded(plan: MemoryPlan, method: Method, processes: int) -> MemoryPlan:
    """The plan where each process keeps its part of the blocks, and one of them is whole at a time."""
    sizes = [[_bytes(block.parameters()) for block in blocks_of(network)] for network in method.networks()]
    away = 1 - 1 / processes
    online = sum(sizes[0])
    states = int(away * plan.states * online / plan.gradients)
    kept, gradients = int(away * sum(map(sum, sizes))), int(away * online)
    exchange = max(0, plan.exchange - online)
    return dataclasses.replace(
        plan,
        parameters=plan.parameters - kept,
        gradients=plan.gradients - gradients,
        exchange=exchange,
        states=plan.states - states,
        # A block travels with its weights and its gradients.
        peak=plan.peak - kept - gradients - states + 2 * max(sizes[0]),
    )


def _step(config: PretrainConfig, method: Method, batch: int, several: bool) -> MemoryPlan:
    trained = list(method.online.parameters())
    optimiser = build_optimiser(method.online, config.optim, 0.1)
    networks = [tensor for network in method.networks() for tensor in (*network.parameters(), *network.buffers())]
    channels, passes = config.backbone.in_chans, {}
    meter = Footprint()
    before = 0

    def note(backward: Pass) -> None:
        passes[", ".join(backward.terms)] = meter.now - before - _bytes(_gradients(trained))

    parameters = _parameters(config, batch)
    with meter:
        views = {
            name: [torch.empty(batch, channels, view.size, view.size) for _ in range(view.count)]
            for name, view in config.views.items()
        }
        before = meter.now
        progress = Progress(config.epochs - 1, 1, config.epochs)
        method.backward(views, None, parameters, progress, note)
        in_passes = meter.peak
        gradients = _bytes(_gradients(trained))
        clip_gradients(trained, config.optim)
        start = meter.now
        optimiser.step()
        states = meter.now - start
        update = meter.peak
    fixed, exchange = _bytes(networks), gradients if several else 0
    # Once the optimiser has its state, the passes of later steps run beside it.
    peak = fixed + max(in_passes + states, update, start + exchange + states)
    return MemoryPlan(batch, fixed, gradients, exchange, states, before, passes, peak)


def _parameters(config: PretrainConfig, batch: int) -> dict[str, list[Parameters]]:
    """Parameters of views as the loader's workers draw them, the same for each sample."""
    rng, draws = np.random.default_rng(0), loss_draws(config)
    found: dict[str, list[Parameters]] = {}
    for name, view in config.views.items():
        one = draw_photometric(view.photometric[0], rng) | {"box": np.array([0, 0, 9, 9], np.float32)}
        for loss, draw in draws[name].items():
            one |= {f"{loss}.{key}": value for key, value in draw(view, rng).items()}
        found[name] = [{key: np.stack([value] * batch) for key, value in one.items()}] * view.count
    return found


def _gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def device_memory(device: torch.device) -> int:
    """Bytes of the device, or of the machine for a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def lines(plan: MemoryPlan, memory: int) -> list[str]:
    """Lines of the plan of a run; `memory`: bytes of the device."""
    parts = {
        "networks": plan.parameters, "gradients": plan.gradients, "their exchange": plan.exchange,
        "optimiser": plan.states, "views": plan.views,
    }  # fmt: skip
    passes = {f"activations of {name}": size for name, size in plan.passes.items()}
    room = plan.fits(memory)
    verdict = f"fits; up to {room} images would"
    if room < plan.batch:
        verdict = "does not fit, " + (f"{room} images would: lower batch" if room else "at no batch")
    return [
        f"memory      about {_size(plan.peak)} of {_size(memory)} per process: {verdict}",
        "            " + ", ".join(f"{name} {_size(size)}" for name, size in parts.items() if size),
        *(f"            {name} {_size(size)}" for name, size in passes.items()),
    ]


def _size(size: int) -> str:
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"
