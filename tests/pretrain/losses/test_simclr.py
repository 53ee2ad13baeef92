"""SimCLR: NT-Xent against a closed form in NumPy, its invariances, and recipes that it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from core.errors import UserError
from pretrain.losses.simclr import nt_xent
from tests.pretrain.losses.tiny_losses import RESNET, build, recipe, views_of

SIMCLR = [
    RESNET, "objective={name: simclr, temperature: 0.5}", "target.kind=none", "compute.backward=packed",
    "projector={widths: [16, 8], hidden_norm: false}", "views={global: {count: 2, size: 32}}",
]  # fmt: skip


def closed_form(z: np.ndarray, temperature: float) -> float:
    """Equation 1 of arXiv 2002.05709, anchor by anchor; z [2N, D], the partner of i is (i + N) mod 2N."""
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    count, losses = len(z), []
    for anchor in range(count):
        partner = (anchor + count // 2) % count
        others = [k for k in range(count) if k != anchor]
        total = sum(math.exp(z[anchor] @ z[k] / temperature) for k in others)
        losses.append(-math.log(math.exp(z[anchor] @ z[partner] / temperature) / total))
    return float(np.mean(losses))


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_nt_xent_is_the_closed_form_and_blind_to_the_order_of_images(temperature: float) -> None:
    z = torch.tensor(np.random.default_rng(0).normal(size=(10, 6)))
    first, second = z[:5], z[5:]
    found = nt_xent(first, second, z, temperature).item()
    assert found == pytest.approx(closed_form(z.numpy(), temperature), rel=1e-10)
    order = torch.randperm(5)
    assert nt_xent(first[order], second[order], torch.cat([first[order], second[order]]), temperature).item() == (
        pytest.approx(found, rel=1e-12)
    )
    assert nt_xent(second, first, torch.cat([second, first]), temperature).item() == pytest.approx(found, rel=1e-12)
    assert nt_xent(3 * first, second, torch.cat([3 * first, second]), temperature).item() == pytest.approx(found)


def test_known_values_at_the_extremes() -> None:
    same = torch.ones(8, 3, dtype=torch.float64)
    assert nt_xent(same[:4], same[4:], same, 0.5).item() == pytest.approx(math.log(7))  # 2N − 1 equal candidates
    unit = torch.eye(4, dtype=torch.float64)
    expected = math.log(math.exp(2) + 6) - 2  # partner at cosine 1, six others at 0, τ ½
    assert nt_xent(unit, unit, torch.cat([unit, unit]), 0.5).item() == pytest.approx(expected)


def test_gradients_flow_into_both_views_of_the_one_network() -> None:
    config = recipe(*SIMCLR)
    method = build(config)
    assert method.target is None
    first, second = views_of(config)["global"]
    first.requires_grad_(), second.requires_grad_()
    found = method.backward({"global": [first, second]})
    assert set(found) == {"global"}
    assert first.grad.abs().sum() > 0
    assert second.grad.abs().sum() > 0
    assert not any(isinstance(layer, torch.nn.BatchNorm1d) for layer in method.online.get_head("projector"))
    assert 0 < method.health()["spread"] <= 1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("compute.backward=per_view", r"compute\.backward.*packed"),
        ("target.kind=ema", r"target\.kind.*none"),
        ("views.local={count: 1, size: 32}", "two global views.*local"),
        ("views.global.count=3", "two global views.*3"),
        ("predictor.widths=[8]", "predictor.*simclr"),
    ],
)
def test_impossible_recipes(override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        recipe(*SIMCLR, override)
