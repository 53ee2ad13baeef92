"""Memory of a GPU: the plan of a run against the allocator's peak, and backbones whose blocks are streamed."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch

from benchmarks.alternate import Row, alternate, synchronise
from benchmarks.on_gpu.parts import Found, Job
from benchmarks.on_gpu.steps import config_for, vit_for
from benchmarks.step import LR, OurStep, in_layout, random_views
from core.backbones import Backbone, BackboneConfig, build_backbone
from core.compute.streaming import stream_blocks
from core.distributed import Processes
from core.features import frozen
from pretrain.config import PretrainConfig
from pretrain.large.memory import memory_plan


def plans(job: Job) -> Found:
    """Planned over measured peak of a step, for a ResNet and a ViT."""
    rows = []
    for backbone in ("resnet", "vit"):
        config = dataclasses.replace(config_for(job, backbone, "bf16"), batch=job.arguments.batch)
        plan = memory_plan(config, Processes(0, 1, job.device))
        values = {"plan": [plan.peak / 2**30], "torch.cuda.max_memory_allocated": [peak(config, job) / 2**30]}
        what = f"peak memory of a step, {config.backbone.name}, batch {config.batch}, bf16"
        rows.append(Row(what, "GiB", values, ("plan", "torch.cuda.max_memory_allocated")))
        torch.cuda.empty_cache()
    return Found(rows)


def peak(config: PretrainConfig, job: Job) -> int:
    """Largest number of bytes that tensors take in the second step."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(job.device)
    ours = OurStep(config, job.device)
    for number in range(2):
        views = in_layout(config, random_views(config, config.batch, job.device, number))
        if number == 1:
            torch.cuda.reset_peak_memory_stats(job.device)
        ours.step(views, 0.99, LR)
        del views
    synchronise(job.device)
    return torch.cuda.max_memory_allocated(job.device) - before


def streaming(job: Job) -> Found:
    """Forward passes of a frozen ViT-B whose blocks visit the device one by one, over those of a whole one."""
    large = job.arguments.sizes[0] >= 224
    config = BackboneConfig("vit_base_patch16_224") if large else vit_for(job)
    size = job.arguments.sizes[0]
    images = torch.randn(job.arguments.batch, 3, size, size, device=job.device)
    ways, memory = {}, {}
    for way in ("blocks streamed", "whole"):
        torch.manual_seed(0)
        model = build_backbone(config)
        with frozen(model):
            if way == "whole":
                model.to(job.device)
            else:
                stream_blocks(Backbone(config, model, ""), job.device)
            ways[way] = partial(model, images)
            torch.cuda.reset_peak_memory_stats() if job.device.type == "cuda" else None
            with torch.no_grad():
                first = ways[way]()
            memory[way] = first
    same = torch.equal(memory["blocks streamed"], memory["whole"])

    def run(way: str) -> None:
        with torch.no_grad():
            ways[way]()
        synchronise(job.device)

    seconds = alternate({way: partial(run, way) for way in ways}, job.arguments.rounds)
    rates = {way: [len(images) / value for value in values] for way, values in seconds.items()}
    note = f"features {'have the same bits' if same else 'differ'}"
    what = f"features of {config.name}, batch {len(images)}, fp32"
    return Found([Row(what, "images/s", rates, ("blocks streamed", "whole"), note=note)])
