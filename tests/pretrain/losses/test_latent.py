"""BYOL, SimSiam and MoCo v3 against closed forms and gradients written in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain import losses
from pretrain.config import ObjectiveConfig
from pretrain.losses.base import Auxiliary, Encoded, Objective, Outputs
from pretrain.losses.byol import byol
from pretrain.losses.mocov3 import mocov3
from pretrain.losses.simsiam import simsiam


def vectors(count: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    values = np.random.default_rng(seed).normal(size=(count, 5))
    return torch.tensor(values, dtype=torch.float64), values


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def cosine_gradient(p: np.ndarray, t: np.ndarray) -> np.ndarray:
    """d cos(p, t) / d p, row by row."""
    cosine = (unit(p) * unit(t)).sum(1, keepdims=True)
    return (unit(t) - cosine * unit(p)) / np.linalg.norm(p, axis=1, keepdims=True)


def test_byol_and_simsiam_values_and_gradients() -> None:
    (p, p_np), (t, t_np) = vectors(4, 0), vectors(4, 1)
    cosine = (unit(p_np) * unit(t_np)).sum(1).mean()
    for loss, value, scale in ((byol, 2 - 2 * cosine, -2), (simsiam, -cosine, -1)):
        p.requires_grad_()
        p.grad = None
        result = loss(p, t)
        result.backward()
        assert result.item() == pytest.approx(value, abs=1e-6)
        np.testing.assert_allclose(p.grad.numpy(), scale * cosine_gradient(p_np, t_np) / 4, atol=1e-6)


def test_byol_is_zero_for_parallel_and_four_for_opposite() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert byol(x, 7 * x).item() == pytest.approx(0, abs=1e-6)
    assert byol(x, -x).item() == pytest.approx(4, abs=1e-6)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_mocov3_value_and_gradient(rank: int, temperature: float) -> None:
    (p, p_np), (t, t_np) = vectors(3, 2), vectors(6, 3)  # two ranks of three
    p.requires_grad_()
    result = mocov3(p, t, temperature, rank)
    result.backward()
    logits = unit(p_np) @ unit(t_np).T / temperature
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    own = np.arange(3) + 3 * rank
    assert result.item() == pytest.approx(2 * temperature * -np.log(softmax[np.arange(3), own]).mean(), abs=1e-6)
    d_logits = softmax.copy()
    d_logits[np.arange(3), own] -= 1
    d_unit = 2 * temperature * d_logits @ unit(t_np) / temperature / 3
    expected = (d_unit - (d_unit * unit(p_np)).sum(1, keepdims=True) * unit(p_np)) / np.linalg.norm(
        p_np, axis=1, keepdims=True
    )
    np.testing.assert_allclose(p.grad.numpy(), expected, atol=1e-6)


def test_targets_carry_no_gradient() -> None:
    projection = torch.randn(3, 5, requires_grad=True) * 2
    target = Outputs("global", 0, Encoded(heads={"projection": projection.half()})).detached()
    assert not target["projection"].requires_grad
    assert target["projection"].dtype == torch.float32


def test_losses_are_found_by_name_and_kind() -> None:
    assert {"byol", "simsiam", "mocov3"} <= set(losses.names(Objective))
    assert not set(losses.names(Objective)) & set(losses.names(Auxiliary))
    with pytest.raises(ValueError, match=r"latent.*known: .*byol"):
        losses.find("latent", Objective)
    with pytest.raises(ValueError, match=r"byol.*objective\.name"):
        losses.find("byol", Auxiliary)
    with pytest.raises(ValueError, match=r"byol.*no option centre"):
        ObjectiveConfig("byol", options={"centre": 1})


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="temperature"):
        ObjectiveConfig(temperature=0)
