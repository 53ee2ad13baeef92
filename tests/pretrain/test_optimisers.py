"""pretrain/optimisers.py against hand-computed steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.heads import HeadConfig, build_head
from pretrain.optimisers import LARS, OptimConfig, build_optimiser, parameter_groups, set_learning_rate


def numpy_lars(
    weight: np.ndarray, gradients: list[np.ndarray], lr: float, momentum: float, decay: float, trust: float, adapt: bool
) -> np.ndarray:
    velocity = np.zeros_like(weight)
    for gradient in gradients:
        update = gradient + decay * weight
        if adapt and np.linalg.norm(weight) > 0 and np.linalg.norm(update) > 0:
            update = update * trust * np.linalg.norm(weight) / np.linalg.norm(update)
        velocity = momentum * velocity + update
        weight = weight - lr * velocity
    return weight


def test_lars_steps_equal_the_written_out_formula() -> None:
    rng = np.random.default_rng(0)
    starts = [rng.normal(size=(4, 3)), np.zeros((2, 2)), rng.normal(size=5)]
    gradients = [[rng.normal(size=start.shape) for _ in range(3)] for start in starts]
    parameters = [nn.Parameter(torch.tensor(start)) for start in starts]
    optimiser = LARS(
        [
            {"params": parameters[:2], "weight_decay": 0.01},
            {"params": parameters[2:], "weight_decay": 0.0, "adapt": False},
        ],
        lr=0.5,
    )
    for step in range(3):
        for parameter, own in zip(parameters, gradients, strict=True):
            parameter.grad = torch.tensor(own[step])
        optimiser.step()
    for index, parameter in enumerate(parameters):
        decay, adapt = (0.01, True) if index < 2 else (0.0, False)
        expected = numpy_lars(starts[index], gradients[index], 0.5, 0.9, decay, 0.001, adapt)
        np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-12, atol=1e-15)


def test_a_zero_gradient_leaves_an_undecayed_weight_alone() -> None:
    parameter = nn.Parameter(torch.ones(2, 2))
    parameter.grad = torch.zeros(2, 2)
    LARS([{"params": [parameter]}], lr=1.0).step()
    assert torch.equal(parameter, torch.ones(2, 2))


def two_part_model() -> nn.Module:
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
    model.predictors = nn.ModuleDict({"global": build_head(4, HeadConfig((8, 4)))})
    return model


def test_biases_and_norms_are_spared() -> None:
    groups = parameter_groups(two_part_model(), OptimConfig(weight_decay=0.1))
    assert [(len(g["params"]), g["weight_decay"], g["adapt"], g["constant"]) for g in groups] == [
        (3, 0.1, True, False),  # convolution and the two Linear weights
        (5, 0.0, False, False),  # two norms' weight and bias, and the last bias
    ]


def test_simsiams_predictor_keeps_its_rate_and_norms_decay() -> None:
    model = two_part_model()
    config = OptimConfig("sgd", lr=0.05, weight_decay=1e-4, constant_predictor_lr=True, decay_norms=True)
    optimiser = build_optimiser(model, config, peak_lr=0.1)
    set_learning_rate(optimiser, 0.1, 0.25)
    predictor = {id(parameter) for parameter in model.predictors.parameters()}
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]}
    assert all(rate == ((0.1 if key in predictor else 0.025), 1e-4) for key, rate in rates.items())
    assert len(rates) == len(list(model.parameters()))


def test_adamw_takes_its_betas() -> None:
    optimiser = build_optimiser(two_part_model(), OptimConfig("adamw", lr=1e-3, betas=(0.9, 0.98)), 1e-3)
    assert isinstance(optimiser, torch.optim.AdamW)
    assert {group["betas"] for group in optimiser.param_groups} == {(0.9, 0.98)}


@pytest.mark.parametrize("values", [{"momentum": 1.0}, {"clip": 0.0}])
def test_impossible_settings(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        OptimConfig(**values)


def test_heads_have_the_described_layers() -> None:
    head = build_head(10, HeadConfig((8, 6, 4), output_norm=True))
    assert [type(layer).__name__ for layer in head] == [
        *("Linear", "BatchNorm1d", "ReLU") * 2,
        "Linear",
        "BatchNorm1d",
    ]
    assert head[0].bias is None
    assert head[3].bias is None
    assert head[6].bias is not None
    assert head[7].weight is None
