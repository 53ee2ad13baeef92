"""Auxiliary losses: λ over the epochs, independence of the objective, rotation and jigsaw in closed form."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import UserError
from pretrain.config import AuxiliaryConfig
from pretrain.losses import jigsaw
from pretrain.losses.base import Progress
from tests.pretrain.losses.tiny_losses import DINO, RESNET, VIT, build, parameters_of, recipe, views_of
from tests.pretrain.tiny_run import recipe as run_recipe
from tests.pretrain.tiny_run import run

HEADS = ["projector.widths=[16, 8]", "predictor.widths=[16, 8]"]
PART = "views.part={count: 2, size: 18, placement: apart, photometric: [{blur_kernel: 9}]}"
SPATIAL = "auxiliary.spatial_prediction={view: part, options: {hidden: 8}}"
ROTATION = "auxiliary.rotation={view: turned, options: {hidden: [8], dropout: 0}}"
TURNED = "views.turned={count: 1, size: 18, photometric: [{blur_kernel: 9}]}"
JIGSAW = "auxiliary.jigsaw={view: turned, options: {tile_width: 6, hidden: 8, dropout: 0}}"


def parameters(config: object) -> dict[str, list[dict[str, np.ndarray]]]:
    rng = np.random.default_rng(0)
    return parameters_of(
        config, box=rng.uniform(5, 40, (4, 4)), flip=np.array([True, False, True, False]),
        **{"jigsaw.order": np.array([0, 3, 1, 34])},
    )  # fmt: skip


def test_lambda_over_the_epochs() -> None:
    config = AuxiliaryConfig(weight=0.3, from_epoch=40, ramp_epochs=10)
    assert [config.weight_at(epoch) for epoch in (0, 39.9, 40, 45, 50, 90)] == pytest.approx([0, 0, 0, 0.15, 0.3, 0.3])
    assert AuxiliaryConfig(weight=0.3, from_epoch=2).weight_at(2) == 0.3


@pytest.mark.parametrize(
    ("objective", "stem"),
    [
        ([*HEADS, "objective.name=mocov3", RESNET], "backbone.conv1.weight"),
        ([*HEADS, "objective.name=simsiam", "target.kind=stop_gradient", RESNET], "backbone.conv1.weight"),
        ([*HEADS, VIT], "backbone.patch_embed.proj.weight"),
        ([*DINO, VIT], "backbone.patch_embed.proj.weight"),
    ],
    ids=["mocov3", "simsiam", "byol-vit", "dino-vit"],
)
def test_they_train_backbone_and_own_head_only_and_add_to_the_objective(objective: list[str], stem: str) -> None:
    sized = [PART.replace("18", "24"), TURNED.replace("18", "24")]
    plain, config = recipe(*objective), recipe(*objective, *sized, SPATIAL, ROTATION, JIGSAW)
    alone, method = build(plain), build(config)
    for name, tensor in alone.online.state_dict().items():
        assert torch.equal(tensor, method.online.state_dict()[name])  # heads are built last
    views = views_of(config)
    expected = alone.backward({name: views[name] for name in plain.views})
    found = method.backward(views, None, parameters(config))
    assert list(found) == method.terms
    for name in expected:
        assert found[name].item() == pytest.approx(expected[name].item(), rel=1e-12)
    assert set(found) - set(expected) == {
        "spatial_prediction/position", "spatial_prediction/scale", "rotation", "jigsaw"
    }  # fmt: skip
    changed = []
    for name, parameter in alone.online.named_parameters():
        other = dict(method.online.named_parameters())[name]
        if not torch.allclose(parameter.grad, other.grad, rtol=1e-9, atol=1e-12):
            changed.append(name)
    assert stem in changed
    assert all(name.startswith("backbone.") for name in changed)
    assert all(p.grad is not None for n, p in method.online.named_parameters() if n.startswith("auxiliary."))
    assert [set(network.state_dict()) for network in method.networks()[1:]] == [
        set(network.state_dict()) for network in alone.networks()[1:]
    ]
    assert {"rotation/accuracy", "jigsaw/accuracy", "spatial_prediction/r2_dx"} <= set(method.health())


def test_weight_zero_leaves_a_run_as_if_the_loss_were_not_listed(image_folder: Path, tmp_path: Path) -> None:
    plain = run(run_recipe(image_folder), tmp_path / "plain")
    listed = run_recipe(
        image_folder, PART, TURNED, SPATIAL + "", "auxiliary.spatial_prediction.weight=0",
        ROTATION, "auxiliary.rotation.from_epoch=99",
    )  # fmt: skip
    found = run(listed, tmp_path / "listed")
    heads = [name for name in found["online"] if name.startswith("auxiliary.")]
    assert len(heads) == 20
    for name in heads:
        del found["online"][name]
    for network in ("online", "target"):
        assert found[network].keys() == plain[network].keys()
        assert all(torch.equal(tensor, plain[network][name]) for name, tensor in found[network].items())
    assert torch.equal(found["rng"][0]["cpu"], plain["rng"][0]["cpu"])


def test_rotation_turns_each_view_by_all_quarters_and_starts_at_ln_4() -> None:
    config = recipe(*HEADS, RESNET, TURNED, ROTATION)
    method = build(config)
    loss, images = method.auxiliaries["rotation"], torch.randn(4, 3, 18, 18, dtype=torch.float64)
    inputs = loss.inputs([images], [{}])
    assert torch.equal(inputs[:4], images)
    assert torch.equal(inputs[8:12].flip((2, 3)), images)
    assert torch.equal(inputs[4:8], images.transpose(2, 3).flip(2))
    with torch.no_grad():
        loss.heads["turn"][-1].weight.zero_(), loss.heads["turn"][-1].bias.zero_()
    vectors = torch.randn(16, 16, dtype=torch.float64)
    assert loss(vectors, [{}], Progress())["rotation"].item() == pytest.approx(math.log(4))


def test_permutations_differ_much_and_are_the_same_for_a_seed() -> None:
    found = jigsaw.permutations(9, 35, 0)
    assert found.shape == (35, 9)
    assert (np.sort(found, axis=1) == np.arange(9)).all()
    assert (found[0] == np.arange(9)).all()
    distances = (found[:, None] != found[None]).sum(2)[np.triu_indices(35, 1)]
    assert distances.min() >= 7
    assert distances.mean() > 8
    assert np.array_equal(found, jigsaw.permutations(9, 35, 0))
    assert not np.array_equal(found, jigsaw.permutations(9, 35, 1))
    assert len({tuple(row) for row in jigsaw.permutations(4, 24, 0).tolist()}) == 24


def test_jigsaw_passes_the_tiles_in_the_order_of_their_permutation() -> None:
    config = recipe(*HEADS, RESNET, TURNED, JIGSAW)
    loss = build(config).auxiliaries["jigsaw"]
    cells = torch.arange(9.0).view(1, 1, 3, 3).repeat_interleave(6, 2).repeat_interleave(6, 3).expand(4, 3, -1, -1)
    orders = np.array([0, 3, 1, 34])
    inputs = loss.inputs([cells], [{"jigsaw.order": orders}])
    assert inputs.shape == (36, 3, 18, 18)
    tiles = inputs.mean((1, 2, 3)).view(4, 9).round()
    assert torch.equal(tiles.long(), torch.from_numpy(jigsaw.permutations(9, 35, 0)[orders]))
    assert (inputs.amax((1, 2, 3)) - inputs.amin((1, 2, 3))).max() < 1e-5  # nothing of a neighbouring tile


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([ROTATION], "turned"),
        ([TURNED, ROTATION, "views.turned.transform=rotate"], r"views\.turned\.transform=rotate"),
        ([TURNED, JIGSAW, "views.turned.transform=shuffle"], "shuffle"),
        ([TURNED, "auxiliary.spatial_prediction={view: turned}"], r"views\.turned\.placement.*apart"),
        ([PART, "views.part.transform=rotate", SPATIAL], r"views\.part\.transform=rotate"),
        ([PART, "auxiliary.spatial={view: part}"], "known: .*spatial_prediction"),
        ([TURNED, "auxiliary.rotation={view: turned, weight: -1}"], "weight"),
        ([TURNED, "auxiliary.rotation={view: turned, options: {turns: 4}}"], "turns"),
    ],
)
def test_impossible_recipes(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        recipe(*HEADS, *overrides)


def test_tiles_must_fit() -> None:
    with pytest.raises(UserError, match=r"views\.turned\.size 16.*3"):
        build(recipe(*HEADS, RESNET, "views.turned={count: 1, size: 16, photometric: [{blur_kernel: 9}]}", JIGSAW))
