"""DINO as a whole: the mean over pairs, its centre over steps, frozen prototypes, and bad recipes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from core.backbones import pooled_features
from core.errors import UserError
from pretrain.losses.base import Progress
from pretrain.optimisers import Freezer, OptimConfig, build_optimiser, clip_gradients, set_weight_decay
from tests.pretrain.losses.tiny_losses import DINO, RESNET, build, recipe, views_of
from tests.pretrain.tiny_run import assert_equal_bits, run, run_until_killed
from tests.pretrain.tiny_run import recipe as run_recipe


@pytest.mark.parametrize("backward", ["per_view", "packed"])
def test_loss_gradients_and_centre_are_the_formula_over_three_steps(backward: str) -> None:
    """Weights 2/6 and 4/6 make the mean over all 2 + 4 pairs."""
    weights = [f"views.global.weight={2 / 6}", f"views.local.weight={4 / 6}"]
    config = recipe(*DINO, f"compute.backward={backward}", *weights)
    method, reference = build(config), build(config)
    centre = torch.zeros(12, dtype=torch.float64)
    for step in range(3):
        views = views_of(config, seed=step)
        logits = lambda network, images: network.get_head("head")(pooled_features(network.backbone, images))  # noqa: E731
        with torch.no_grad():
            teacher = [logits(reference.target, images) for images in views["global"]]
        terms = []
        flat = [*views["global"], *views["local"]]
        for number, images in enumerate(flat):
            student = F.log_softmax(logits(reference.online, images) / 0.1, 1)
            for other, target in enumerate(teacher):
                if other != number:
                    terms.append(-(F.softmax((target - centre) / 0.04, 1) * student).sum(1).mean())
        assert len(terms) == 6
        loss = torch.stack(terms).mean()
        found = method.backward(views, progress=Progress(step, 1, 3))
        assert set(found) == {"global", "local"}
        assert sum(found.values()).item() == pytest.approx(loss.item(), rel=1e-9)
        loss.backward()
        for ours, theirs in zip(method.online.parameters(), reference.online.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-8)
        centre = 0.9 * centre + 0.1 * torch.cat(teacher).mean(0)
        torch.testing.assert_close(method.objective.centre, centre)
    assert all(parameter.grad is None for parameter in method.target.parameters())
    assert set(method.health()) == {"entropy", "information"}


def test_frozen_prototypes_clipping_per_tensor_and_weight_decay() -> None:
    config = recipe(RESNET, *DINO)
    optim = OptimConfig(
        "adamw", lr=0.1, weight_decay=0.04, decay_end=0.4, clip=0.5, clip_mode="tensor", freeze={"prototypes": 1}
    )
    method = build(config, double=False)
    optimiser = build_optimiser(method.online, optim, 0.1)
    before = copy.deepcopy(method.online.state_dict())
    views = views_of(config, double=False)
    for epoch, moves in ((0.5, False), (1.0, True)):
        method.backward(views)
        Freezer(method.online, optim).drop_gradients(epoch)
        clip_gradients(list(method.online.parameters()), optim)
        norms = [p.grad.norm().item() for p in method.online.parameters() if p.grad is not None]
        assert max(norms) == pytest.approx(0.5, rel=1e-4)
        assert sum(norm > 0.4999 for norm in norms) > 1
        optimiser.step()
        optimiser.zero_grad()
        assert torch.equal(method.online.get_head("head").prototypes.weight, before["head.prototypes.weight"]) != moves
        assert not torch.equal(method.online.get_head("head").mlp[0].weight, before["head.mlp.0.weight"])
    for share, decay in ((0, 0.04), (0.5, 0.22), (1, 0.4)):
        set_weight_decay(optimiser, optim, share)
        assert sorted({group["weight_decay"] for group in optimiser.param_groups}) == pytest.approx([0, decay])
    with pytest.raises(UserError, match="prototype_s"):
        Freezer(method.online, OptimConfig(freeze={"prototype_s": 1}))


def test_a_killed_run_resumes_its_centre_bit_for_bit(image_folder: Path, tmp_path: Path) -> None:
    config = run_recipe(
        image_folder, *DINO, "projector={}", "predictor={}",
        "optim={name: adamw, lr: 0.05, weight_decay: 0.1, decay_end: 0.4, clip: 0.5, clip_mode: tensor,"
        " freeze: {prototypes: 1.5}}",
    )  # fmt: skip
    whole = run(config, tmp_path / "whole")
    assert whole["losses"]["objective"]["centre"].abs().max() > 0
    run_until_killed(config, tmp_path / "killed", 5, KeyboardInterrupt)
    assert_equal_bits(run(config, tmp_path / "killed"), whole)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["target.kind=stop_gradient"], r"target\.kind.*ema"),
        (["projector.widths=[8]"], r"projector.*dino"),
        (["objective.options.head.prototypes=1"], "prototypes"),
        (["objective.options.teacher.temperature=0"], "temperature"),
        (["objective.name=dyno"], "known: .*dino"),
        (["views={global: {count: 1, size: 32}}"], "second view"),
        (["optim.clip_mode=tensor"], "clip"),
    ],
)
def test_impossible_recipes(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        recipe(*DINO, *overrides)
