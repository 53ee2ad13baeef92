"""evaluate/probes/linear/head_grid.py: each head equals torch's own layer and optimiser; LARS equals pre-training's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from evaluate.probes.linear.head_grid import HeadGrid, HeadOptimConfig
from pretrain.optimisers import LARS

CPU = torch.device("cpu")
INPUTS, LRS, CLASSES = ((16, 32), (0, 32), (16, 40)), (0.01, 0.1, 1.0), 7
FACTORS = (1.0, 0.8, 0.5, 0.3, 0.1)


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(5, 24, 40, generator=generator), torch.randint(0, CLASSES, (5, 24), generator=generator)


def trained(inputs: tuple[tuple[int, int], ...], lrs: tuple[float, ...], optim: HeadOptimConfig) -> HeadGrid:
    grid = HeadGrid(inputs, lrs, CLASSES, optim, 0, CPU)
    for features, labels, factor in zip(*data(), FACTORS, strict=True):
        grid.step(features, labels, factor, len(labels))
    return grid


OPTIMS = [
    HeadOptimConfig(),
    HeadOptimConfig(weight_decay=0.05),
    HeadOptimConfig("lars", weight_decay=0.01, trust=0.02),
    HeadOptimConfig("lars", trust=0.02, adapt_bias=True),
]


@pytest.mark.parametrize("optim", OPTIMS)
def test_every_head_equals_the_same_head_alone_and_torchs_own(optim: HeadOptimConfig) -> None:
    together = trained(INPUTS, LRS, optim)
    for index in range(9):
        start, end = INPUTS[index // 3]
        rate = LRS[index % 3]
        alone = trained(((start, end),), (rate,), optim)
        layer = nn.Linear(end - start, CLASSES)
        first = HeadGrid(((start, end),), (rate,), CLASSES, optim, 0, CPU).head(0)
        layer.load_state_dict({"weight": first[0], "bias": first[1]})
        groups = [
            {"params": [layer.weight], "weight_decay": optim.weight_decay},
            {"params": [layer.bias], "weight_decay": 0.0, "adapt": optim.adapt_bias},
        ]
        optimiser: torch.optim.Optimizer
        if optim.name == "lars":
            optimiser = LARS(groups, lr=rate, trust=optim.trust)
        else:
            optimiser = torch.optim.SGD([{k: v for k, v in g.items() if k != "adapt"} for g in groups], rate, 0.9)
        for features, labels, factor in zip(*data(), FACTORS, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor
            optimiser.zero_grad()
            functional.cross_entropy(layer(features[:, start:end]), labels).backward()
            optimiser.step()
        for found, single, expected in zip(together.head(index), alone.head(0), layer.parameters(), strict=True):
            torch.testing.assert_close(found, single, atol=1e-5, rtol=0)
            torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=0)
        assert (together.head(index)[0] - first[0]).abs().max() > 1e-5  # it has learnt


def test_logits_are_those_of_the_heads() -> None:
    grid = trained(INPUTS, LRS, OPTIMS[0])
    features = data()[0][0]
    for index in range(9):
        number, rate = divmod(index, 3)
        start, end = INPUTS[number]
        expected = functional.linear(features[:, start:end], *grid.head(index))
        torch.testing.assert_close(grid.logits(features, number)[:, :, rate], expected, atol=1e-5, rtol=0)


def test_a_head_that_diverges_leaves_the_others_alone() -> None:
    features, labels = data()
    grid = HeadGrid(((0, 40),), (0.1, 1e38), CLASSES, HeadOptimConfig(), 0, CPU)
    alone = HeadGrid(((0, 40),), (0.1,), CLASSES, HeadOptimConfig(), 0, CPU)
    for _ in range(20):
        for each in (grid, alone):
            each.step(features[0], labels[0], 1.0, 24)
    assert not torch.isfinite(grid.head(1)[0]).all()
    torch.testing.assert_close(grid.head(0)[0], alone.head(0)[0])


def test_a_restored_grid_continues_bit_for_bit() -> None:
    whole, first = (HeadGrid(INPUTS, LRS, CLASSES, OPTIMS[2], 0, CPU) for _ in range(2))
    second = HeadGrid(INPUTS, LRS, CLASSES, OPTIMS[2], 1, CPU)
    batches = list(zip(*data(), FACTORS, strict=True))
    for number, (features, labels, factor) in enumerate(batches):
        whole.step(features, labels, factor, 24)
        (first if number < 3 else second).step(features, labels, factor, 24)
        if number == 2:
            second.restore(first.state())
    for index in range(9):
        assert torch.equal(whole.head(index)[0], second.head(index)[0])


@pytest.mark.parametrize("values", [{"momentum": 1.0}, {"weight_decay": -1.0}, {"trust": 0.0}])
def test_impossible_settings(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        HeadOptimConfig(**values)  # type: ignore[arg-type]
