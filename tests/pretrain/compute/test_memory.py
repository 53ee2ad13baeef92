"""pretrain/large/memory.py: the peak of a step as torch's profiler counts the allocator's calls."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from core.backbones import build_backbone
from core.config import load_config
from core.distributed import Processes
from pretrain.config import PretrainConfig
from pretrain.large.memory import MemoryPlan, lines, memory_plan
from pretrain.method import Method
from pretrain.optimisers import build_optimiser

ALONE = Processes(0, 1, torch.device("cpu"))
VIEWS = "views={global: {count: 2, size: 64}, local: {count: 1, size: 32, photometric: [{blur_kernel: 9}]}}"
HEADS = ["batch=16", "projector.widths=[256,64]", "predictor.widths=[256,64]", VIEWS]
RECIPES = {
    "resnet18": ["backbone={name: resnet18, args: {channels: [32, 64, 128, 256]}}", *HEADS],
    "vit_tiny": [
        "backbone={name: vit_tiny_patch16_224, args: {img_size: 64, patch_size: 8, depth: 2}}",
        "optim.name=adamw",
        *HEADS,
    ],
}


def size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def measured(config: PretrainConfig) -> int:
    """Bytes before the second step, and the largest sum of allocations within it."""
    method = Method(config, ALONE.device)
    optimiser = build_optimiser(method.online, config.optim, 0.1)

    def step() -> None:
        views = {
            name: [
                torch.randn(config.batch, 3, view.size, view.size).contiguous(memory_format=method.layout)
                for _ in range(view.count)
            ]
            for name, view in config.views.items()
        }
        method.backward(views)
        optimiser.step()
        optimiser.zero_grad()

    step()
    before = sum(size([*network.parameters(), *network.buffers()]) for network in method.networks())
    before += sum(
        size(value for value in state.values() if isinstance(value, Tensor)) for state in optimiser.state.values()
    )
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    now = peak = 0
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return before + peak


@pytest.mark.parametrize("name", RECIPES)
def test_the_peak_is_within_15_percent(name: str) -> None:
    config = load_config(PretrainConfig, None, RECIPES[name])
    plan = memory_plan(config, ALONE)
    assert plan.peak == pytest.approx(measured(config), rel=0.15)
    assert set(plan.passes) == {"global", "local"}
    assert plan.passes["global"] > 3 * plan.passes["local"]
    assert plan.gradients < plan.parameters < 3 * plan.gradients
    assert plan.states == pytest.approx((2 if name == "vit_tiny" else 1) * plan.gradients, rel=0.01)


def test_sharding_and_checkpointing_save_memory() -> None:
    two = Processes(0, 2, ALONE.device)
    recipe = [*RECIPES["vit_tiny"], "views={global: {count: 2, size: 32}}"]
    whole = memory_plan(load_config(PretrainConfig, None, recipe), two)
    assert whole.exchange == whole.gradients
    assert whole.views == 2 * 8 * 3 * 32 * 32 * 4
    plain = load_config(PretrainConfig, None, [*recipe, "compute.shard=fsdp2"])
    sharded = memory_plan(plain, two)
    blocks = 2 * sum(
        size(block.parameters())
        for block in build_backbone(plain.backbone).blocks  # type: ignore[union-attr]
    )
    assert whole.parameters - sharded.parameters == blocks // 2
    assert whole.gradients - sharded.gradients == blocks // 4
    assert whole.states - sharded.states == pytest.approx(blocks // 2, rel=0.01)
    assert whole.peak > sharded.peak
    small = load_config(PretrainConfig, None, [*recipe, "compute.checkpointing=true"])
    assert memory_plan(small, two).passes["global"] < whole.passes["global"] / 4


def test_what_fits_is_in_the_lines() -> None:
    plan = MemoryPlan(10, 4 * 2**20, 2 * 2**20, 0, 4 * 2**20, 2**20, {"global": 5 * 2**20}, 20 * 2**20)
    assert [plan.fits(size * 2**20) for size in (20, 25, 9)] == [10, 15, 0]
    for memory, part in ((40, "fits"), (15, "5 images"), (9, "does not fit")):
        assert part in lines(plan, memory * 2**20)[0]
