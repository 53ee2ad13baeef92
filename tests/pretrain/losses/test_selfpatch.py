"""SelfPatch: neighbours, pooling, the patch term and its gradients; its invariances on a stand-in backbone."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from core.errors import UserError
from pretrain.losses.base import Outputs, Progress
from pretrain.losses.shared.class_attention import OFFSETS, Aggregation, most_similar, neighbours_exist, shifted
from tests.pretrain.losses.tiny_losses import RESNET, SELFPATCH, VIT, build, recipe, views_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("side", [14, 8, 6, 4, 3])
def test_numbers_of_neighbours(side: int) -> None:
    clipped = neighbours_exist((side, side), "clip", CPU)
    assert int(clipped.sum()) == (3 * side - 2) ** 2 - side**2
    assert set(clipped.sum(1).tolist()) == {3, 5, 8}
    assert int(neighbours_exist((side, side), "wrap", CPU).sum()) == 8 * side**2


def test_shifted_is_the_neighbour_at_the_offset() -> None:
    places = torch.arange(20).view(1, 20, 1)
    for down, right in OFFSETS:
        rows = shifted(places, (4, 5), (down, right)).view(4, 5)
        assert rows[1, 2] == (1 + down) * 5 + 2 + right
        assert rows[0, 0] == (down % 4) * 5 + right % 5


def test_positives_are_the_most_similar_neighbours() -> None:
    torch.manual_seed(0)
    patches = torch.randn(2, 30, 8)
    chosen = most_similar(patches, (5, 6), 4, "clip")
    for image in range(2):
        for place in range(30):
            row, column = divmod(place, 6)
            found = {}
            for number, (down, right) in enumerate(OFFSETS):
                if 0 <= row + down < 5 and 0 <= column + right < 6:
                    other = patches[image, (row + down) * 6 + column + right]
                    found[number] = F.cosine_similarity(patches[image, place], other, dim=0).item()
            best = sorted(found, key=found.__getitem__, reverse=True)[:4]
            assert sorted(best) == chosen[image, place].nonzero().flatten().tolist()


def test_two_half_planes_are_never_mixed_with_clipped_borders() -> None:
    sides = torch.eye(2).repeat_interleave(3, 0).repeat(6, 1)  # columns 0–2 and 3–5 of a 6 × 6 grid
    chosen = most_similar(sides[None], (6, 6), 4, "clip")[0]
    exist = neighbours_exist((6, 6), "clip", CPU)
    for place in range(36):
        column = place % 6
        same = [(column + right < 3) == (column < 3) for _, right in OFFSETS]
        own = [bool(same[k] and exist[place, k]) for k in range(8)]
        assert sum(bool(chosen[place, k]) for k in range(8) if own[k]) == min(4, sum(own))


def _pooled_by_gathering(
    aggregation: Aggregation, patches: torch.Tensor, grid: tuple[int, int], k: int
) -> torch.Tensor:
    """The pooling as its definition: each patch's neighbours gathered, and the image-level module run on them."""
    chosen = most_similar(patches, grid, k, "wrap")
    near = torch.stack([shifted(patches, grid, offset) for offset in OFFSETS], 2)
    rows = near[chosen].view(-1, k, patches.shape[-1])
    return aggregation(rows).view_as(patches)


@pytest.mark.parametrize("count", [1, 4, 8])
def test_pooling_equals_the_image_level_module_on_the_gathered_neighbours(count: int) -> None:
    torch.manual_seed(0)
    aggregation, patches = Aggregation(12, 3, 2).double(), torch.randn(2, 20, 12, dtype=torch.float64)
    for parameter in aggregation.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    found = aggregation.pool_neighbours(patches, (4, 5), most_similar(patches, (4, 5), count, "wrap"))
    torch.testing.assert_close(found, _pooled_by_gathering(aggregation, patches, (4, 5), count))
    order = torch.randperm(20)
    torch.testing.assert_close(aggregation(patches[:, order]), aggregation(patches))


def test_pooling_follows_mirrored_and_shifted_patches() -> None:
    torch.manual_seed(0)
    aggregation, patches = Aggregation(12, 3, 2).double(), torch.randn(2, 20, 12, dtype=torch.float64)
    pool = lambda x, border: aggregation.pool_neighbours(x, (4, 5), most_similar(x, (4, 5), 4, border))  # noqa: E731
    mirror = lambda x: x.unflatten(1, (4, 5)).flip(2).flatten(1, 2)  # noqa: E731
    for border in ("clip", "wrap"):
        torch.testing.assert_close(pool(mirror(patches), border), mirror(pool(patches, border)))
    moved = shifted(patches, (4, 5), (1, 2))
    torch.testing.assert_close(pool(moved, "wrap"), shifted(pool(patches, "wrap"), (4, 5), (1, 2)))


@pytest.mark.parametrize("backward", ["per_view", "packed"])
def test_terms_centres_and_gradients(backward: str) -> None:
    config = recipe(*SELFPATCH, f"compute.backward={backward}", "objective.options.patch_weight=0.2")
    method, reference = build(config), build(config)
    objective, views = reference.objective, views_of(config)
    found = method.backward(views, progress=Progress(0, 1, 2))
    assert set(found) == {"global", "local", "patch"}
    total, image_logits, patch_logits = 0.0, [], []
    for images in (*views["global"], *views["local"]):
        with torch.no_grad():
            teacher = objective.encode_target(reference.target, images).heads
            student = objective.encode(reference.online, images).heads
        image_logits.append(teacher["logits"])
        patch_logits.append(teacher["patch_logits"].flatten(0, 1))
        q, log_p = (teacher["patch_logits"] / 0.04).softmax(-1), (student["patch_logits"] / 0.1).log_softmax(-1)
        total += -(q * log_p).sum(-1).mean().item() / 4
    assert found["patch"].item() == pytest.approx(0.2 * total, rel=1e-9)
    torch.testing.assert_close(method.objective.centre, 0.1 * torch.cat(image_logits).mean(0))  # the locals, too
    torch.testing.assert_close(method.objective.patch_centre, 0.1 * torch.cat(patch_logits).mean(0))
    assert all(parameter.grad is None for parameter in method.target.parameters())


def test_the_patch_term_alone_does_not_train_the_pooling() -> None:
    config = recipe(*SELFPATCH)
    method, images = build(config), views_of(config)["global"]
    objective = method.objective
    seen = [Outputs("global", k, objective.encode(method.online, view)) for k, view in enumerate(images)]
    targets = [Outputs("global", k, objective.encode_target(method.target, view)) for k, view in enumerate(images)]
    prepared = objective.prepare([target.detached() for target in targets], Progress())
    objective(objective.predict(seen), prepared, Progress())["patch"].backward()
    gradients = {name for name, parameter in method.online.named_parameters() if parameter.grad is not None}
    assert not any(name.startswith(("aggregation", "head")) for name in gradients)
    assert {"patch_head.mlp.0.weight", "backbone.norm.weight", "backbone.pos_embed"} <= gradients


def test_border_and_eight_neighbours_matter_as_they_should() -> None:
    losses = {}
    for border, count in (("clip", 4), ("wrap", 4), ("wrap", 8)):
        config = recipe(*SELFPATCH, f"objective.options.border={border}", f"objective.options.neighbours={count}")
        losses[border, count] = build(config).backward(views_of(config))["patch"].item()
    assert len(set(losses.values())) == 3


def test_the_target_network_has_the_averaged_heads() -> None:
    method = build(recipe(*SELFPATCH))
    assert {name.split(".")[0] for name, _ in method.target.named_parameters()} == {
        "backbone", "aggregation", "head", "patch_head"
    }  # fmt: skip
    before = copy.deepcopy(method.target.state_dict())
    with torch.no_grad():
        for parameter in method.online.parameters():
            parameter.add_(1)
    method.update_target(0.9)
    for name, tensor in method.target.named_parameters():
        torch.testing.assert_close(tensor, before[name] + 0.1)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([RESNET], "ResNet"),
        ([VIT], r"class_token=false"),
        (["views.local.size=16"], r"views\.local\.size 16 .*2 × 2"),
    ],
)
def test_unfit_backbones_and_views(overrides: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(recipe(*SELFPATCH, *overrides))
    with pytest.raises(UserError, match=r"views\.global\.count"):
        recipe(*SELFPATCH, "views.global.count=1")
