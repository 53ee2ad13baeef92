"""DINO's pieces in closed form: cross-entropy of random prototypes, centre, temperatures, measures of health."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from pretrain.losses.shared.prototypes import (
    PrototypeHead,
    PrototypeHeadConfig,
    TeacherConfig,
    collapse,
    cross_entropy,
    log_probabilities,
    measures,
    moved_centre,
    target_probabilities,
)


def test_a_fresh_head_gives_cosines_and_the_expected_first_loss() -> None:
    """H ≈ ln K + 1/(2dτ_s²) for unrelated outputs, 1/(dτ_sτ_t) less for equal ones (logits are N(0, 1/d))."""
    torch.manual_seed(0)
    head = PrototypeHead(32, PrototypeHeadConfig(hidden=64, layers=2, bottleneck=256, prototypes=4096))
    logits = head.prototypes(F.normalize(torch.randn(64, 256), dim=1))
    assert logits.abs().max() <= 1 + 1e-6
    targets = target_probabilities(logits, torch.zeros(4096), 0.04)
    log_p = log_probabilities(logits, 0.1)
    unrelated = cross_entropy(targets.roll(1, 0), log_p).mean().item()
    equal = cross_entropy(targets, log_p).mean().item()
    assert unrelated == pytest.approx(math.log(4096) + 1 / (2 * 256 * 0.01), abs=0.05)
    assert equal == pytest.approx(math.log(4096) + 1 / (2 * 256 * 0.01) - 1 / (256 * 0.1 * 0.04), abs=0.05)
    assert head(torch.randn(2, 7, 32)).shape == (2, 7, 4096)


def test_a_head_with_norms_is_batch_norm_over_all_rows_and_spreads_nearly_equal_vectors() -> None:
    torch.manual_seed(0)
    config = PrototypeHeadConfig(hidden=64, layers=3, bottleneck=16, prototypes=32, hidden_norm=True)
    head = PrototypeHead(24, config).double()
    vectors = torch.randn(24, dtype=torch.float64) + 0.01 * torch.randn(5, 7, 24, dtype=torch.float64)
    rows = vectors.reshape(35, 24)
    for linear in (head.mlp[0], head.mlp[3]):
        hidden = F.linear(rows, linear.weight, linear.bias)
        rows = F.gelu((hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt())
    unit = F.normalize(F.linear(rows, head.mlp[6].weight, head.mlp[6].bias), dim=1)
    expected = unit @ F.normalize(head.prototypes.weight, dim=1).T
    torch.testing.assert_close(head(vectors), expected.view(5, 7, 32))
    plain = PrototypeHead(24, PrototypeHeadConfig(hidden=64, layers=3, bottleneck=16, prototypes=32)).double()
    spread = lambda logits: logits.flatten(0, 1).std(0).mean().item()  # noqa: E731
    assert spread(head(vectors)) > 20 * spread(plain(vectors))


def test_cross_entropy_is_at_least_the_entropy_and_has_the_known_gradient() -> None:
    torch.manual_seed(0)
    student = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    q = target_probabilities(torch.randn(5, 9, dtype=torch.float64), torch.zeros(9), 0.5)
    loss = cross_entropy(q, log_probabilities(student, 0.1))
    entropy = -(q * q.log()).sum(1)
    assert (loss > entropy).all()
    torch.testing.assert_close(cross_entropy(q, log_probabilities(q.log() * 0.1 + 3, 0.1)), entropy)
    loss.sum().backward()
    torch.testing.assert_close(student.grad, (F.softmax(student.detach() / 0.1, 1) - q) / 0.1)


def test_the_centre_approaches_a_constant_teacher_and_then_makes_it_uniform() -> None:
    constant = torch.arange(6.0, dtype=torch.float64)
    centre = torch.zeros(6, dtype=torch.float64)
    for _ in range(7):
        centre = moved_centre(centre, [constant.expand(3, 6), constant.expand(5, 2, 6)], 0.9)
    torch.testing.assert_close(centre, constant * (1 - 0.9**7))
    q = target_probabilities(constant.expand(4, 6), constant, 0.04)
    torch.testing.assert_close(q, torch.full_like(q, 1 / 6))
    student = torch.randn(4, 6, dtype=torch.float64)
    closed = torch.logsumexp(student / 0.1, 1) - (student / 0.1).mean(1)
    torch.testing.assert_close(cross_entropy(q, log_probabilities(student, 0.1)), closed)


def test_each_row_weighs_equally_in_the_centre() -> None:
    values = [torch.randn(4, 3, 5), torch.randn(4, 2, 5)]
    rows = torch.cat([part.reshape(-1, 5) for part in values])
    torch.testing.assert_close(moved_centre(torch.ones(5), values, 0.9), 0.9 + 0.1 * rows.mean(0))


def test_temperatures_change_evenly_once_per_epoch() -> None:
    teacher = TeacherConfig(temperature=0.07, warmup_temperature=0.04, warmup_epochs=4)
    found = [teacher.temperature_at(epoch) for epoch in (0, 0.9, 1, 2, 3, 4, 9.5)]
    assert found == pytest.approx([0.04, 0.04, 0.05, 0.06, 0.07, 0.07, 0.07])
    assert TeacherConfig().temperature_at(0) == 0.04


def test_both_collapses_have_no_information() -> None:
    uniform, winner = torch.full((8, 16), 1 / 16), F.one_hot(torch.full((8,), 3), 16).double()
    apart = F.one_hot(torch.arange(8), 16).double()
    expected = {"uniform": (1, 0), "winner": (0, 0), "apart": (0, math.log(8))}
    for name, q in {"uniform": uniform, "winner": winner, "apart": apart}.items():
        found = {key: float(value) for key, value in measures(q).items()}
        assert (found["entropy"], found["information"]) == pytest.approx(expected[name], abs=1e-6)
        assert bool(collapse(found)) == (name != "apart")
