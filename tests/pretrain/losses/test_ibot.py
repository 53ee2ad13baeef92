"""iBOT: masks as drawn, hidden patches, the patch term place by place, unfit backbones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core.errors import UserError
from pretrain.losses import ibot
from pretrain.losses.base import Encoder
from pretrain.views.config import ViewConfig
from tests.pretrain.losses.tiny_losses import IBOT, RESNET, WITHOUT_CLASS_TOKEN, build, parameters_of, recipe, views_of


def test_masks_hide_the_drawn_share_in_the_drawn_views() -> None:
    rng = np.random.default_rng(0)
    config, view = ibot.Config(), ViewConfig(size=224)
    masks = [ibot.draw(config, view, rng)["mask"] for _ in range(400)]
    assert {mask.shape for mask in masks} == {(196,)}
    shares = np.array([mask.mean() for mask in masks if mask.any()])
    assert len(shares) / 400 == pytest.approx(0.5, abs=0.08)
    assert shares.min() >= 0.1 - 1 / 196
    assert shares.max() <= 0.5 + 1 / 196
    assert shares.mean() == pytest.approx(0.3, abs=0.03)
    grid = next(mask for mask in masks if 40 < mask.sum() < 80).reshape(14, 14)
    together = (grid[1:] & grid[:-1]).sum()
    scattered = (np.random.default_rng(1).permutation(grid.ravel()).reshape(14, 14)[1:] & grid[:-1]).sum()
    assert together > 1.3 * scattered


def test_hidden_patches_have_no_influence_and_the_token_takes_their_place() -> None:
    method = build(recipe(*IBOT))
    mask = torch.zeros(4, 16, dtype=torch.bool)
    mask[:, 5] = True  # row 1, column 1 of 4 × 4
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    changed = images.clone()
    changed[:, :, 8:16, 8:16] += 1
    encode = lambda images, mask: method.objective.encode(method.online, images, mask).vector  # noqa: E731
    assert torch.equal(encode(images, mask), encode(changed, mask))
    assert not torch.equal(encode(images, None), encode(changed, None))
    with torch.no_grad():
        method.online.get_head("mask").token.fill_(0.3)
    assert not torch.equal(encode(images, mask), encode(changed, None))
    seen = []
    with method.online.get_head("mask").hiding(method.online.backbone.patch_embed, mask):
        seen.append(method.online.backbone.patch_embed(images).flatten(1, -2))
    assert (seen[0][:, 5] == 0.3).all()


def test_the_patch_term_is_the_mean_over_images_of_their_hidden_places() -> None:
    config = recipe(*IBOT, "objective.options.patch_weight=2")
    method, reference = build(config), build(config)
    views = views_of(config)
    mask = np.zeros((4, 16), dtype=bool)
    mask[0, [1, 2, 9]], mask[2, 4] = True, True
    parameters = parameters_of(config, **{"ibot.mask": mask})
    found = method.backward(views, None, parameters)
    assert set(found) == {"global", "local", "patch"}
    total = 0.0
    for images in views["global"]:
        teacher = _patch_logits(reference.target, images)
        with reference.online.get_head("mask").hiding(reference.online.backbone.patch_embed, torch.from_numpy(mask)):
            student = _patch_logits(reference.online, images)
        each = -(F.softmax(teacher / 0.04, -1) * F.log_softmax(student / 0.1, -1)).sum(-1)
        images_means = [each[0, [1, 2, 9]].mean(), each[2, 4], torch.zeros(()), torch.zeros(())]
        total += 2 * torch.stack([value.double() for value in images_means]).mean().item() / 2
    assert found["patch"].item() == pytest.approx(total, rel=1e-9)
    expected = 0.1 * torch.cat([_patch_logits(reference.target, images) for images in views["global"]]).mean((0, 1))
    torch.testing.assert_close(method.objective.patch_centre, expected)
    empty = parameters_of(config, **{"ibot.mask": np.zeros((4, 16), dtype=bool)})
    assert build(config).backward(views, None, empty)["patch"] == 0


def test_local_views_pass_apart_from_masked_ones_of_their_size() -> None:
    config = recipe(*IBOT, "views.local.size=32", "compute.backward=packed")
    parameters = parameters_of(config, **{"ibot.mask": np.zeros((4, 16), dtype=bool)})
    packed = build(config).backward(views_of(config), None, parameters)
    alone = build(recipe(*IBOT, "views.local.size=32")).backward(views_of(config), None, parameters)
    assert {k: v.item() for k, v in packed.items()} == pytest.approx({k: v.item() for k, v in alone.items()}, rel=1e-9)


def _patch_logits(network: Encoder, images: torch.Tensor) -> torch.Tensor:
    return network.get_head("head")(network.family.tokens(network.backbone, images).patches)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (RESNET, "ResNet"),
        (WITHOUT_CLASS_TOKEN, "class token"),
        ("objective.options.patch_size=4", r"patch_size.*8"),
    ],
)
def test_unfit_backbones(override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(recipe(*IBOT, override))
