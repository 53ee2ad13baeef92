"""Memory layout: narrow strided 1×1 convolutions train in contiguous memory on CPUs, others in channels_last."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from core.backbones import BackboneConfig, build_backbone
from core.compute.memory_layout import training_layout
from tests.torchrun import python

CPU = torch.device("cpu")


def resnet(*channels: int) -> nn.Module:
    return build_backbone(BackboneConfig("resnet18", {"channels": list(channels)}, stem="small"))


@pytest.mark.parametrize(
    ("channels", "device", "layout"),
    [
        ((8, 8, 8, 16), "cpu", torch.channels_last),
        ((4, 8, 8, 16), "cpu", torch.contiguous_format),
        ((8, 8, 6, 16), "cpu", torch.contiguous_format),
        ((4, 8, 8, 16), "cuda", torch.channels_last),
    ],
)
def test_narrow_networks_are_contiguous_on_cpus(
    channels: tuple[int, ...], device: str, layout: torch.memory_format
) -> None:
    assert training_layout(resnet(*channels), torch.device(device)) == layout


def test_channels_last_is_a_choice() -> None:
    assert training_layout(resnet(8, 8, 8, 16), CPU, channels_last=False) == torch.contiguous_format


_TRAIN = """
import torch
from tests.core.test_memory_layout import CPU, resnet, training_layout
model = resnet(4, 8, 8, 16).train()
layout = training_layout(model, CPU)
model.to(memory_format=layout)
for _ in range(60):
    images = torch.randn(8, 3, 16, 16).contiguous(memory_format=layout)
    model(images).square().mean().backward()
print("survived")
"""


def test_narrow_networks_train_without_corrupting_memory() -> None:
    """In a process of its own, as a corrupted heap ends the process. AVX2's kernels are those that overran."""
    done = python("-c", _TRAIN, env={"ONEDNN_MAX_CPU_ISA": "AVX2"})
    assert done.stdout.strip().endswith("survived"), (done.returncode, done.stderr[-2000:])
