"""Pretext tasks: found by file name, options checked; rotate and shuffle against NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import pretrain.transforms
from pretrain.transforms import configure, find, names, rotate, shuffle
from pretrain.views.augment import augment
from pretrain.views.config import PhotometricConfig, ViewConfig
from pretrain.views.dataset import draw_photometric

PLAIN = PhotometricConfig(flip=0.0, jitter_p=0.0, grey_p=0.0, blur_p=0.0)


def pictures(count: int, size: int) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_tasks_are_the_files_of_the_folder() -> None:
    assert names() == ["cutout", "rotate", "shuffle"]
    assert find("rotate") is rotate
    with pytest.raises(ValueError, match=r"'jigsaw'.*cutout, rotate, shuffle"):
        find("jigsaw")


def test_a_new_file_is_a_new_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "darken.py").write_text(
        "import dataclasses, numpy as np, torch\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Config:\n"
        "    by: float = 0.5\n"
        "def draw(config, size, rng):\n"
        "    return {'by': np.float32(config.by)}\n"
        "def apply(images, parameters, config):\n"
        "    return images * torch.from_numpy(parameters['by'])[:, None, None, None]\n"
    )
    monkeypatch.setattr(pretrain.transforms, "__path__", [*pretrain.transforms.__path__, str(tmp_path)])
    config = ViewConfig(count=1, size=4, photometric=(PLAIN,), transform="darken", transform_options={"by": 0.25})
    rng = np.random.default_rng(0)
    parameters = draw_photometric(PLAIN, rng)
    parameters["darken.by"] = find("darken").draw(config.transform_config, 4, rng)["by"]
    image = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    together = {name: np.stack([value]) for name, value in parameters.items()}
    seen = augment(image, together, config, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert torch.equal(seen, torch.full((1, 3, 4, 4), 0.25))


@pytest.mark.parametrize(
    ("name", "options", "printed"),
    [
        ("cutout", {"size": 3}, r"cutout.*\bsize\b.*area, ratio, probability, fill"),
        ("cutout", {"area": [0.1]}, r"cutout\.area\.1\b"),
        ("cutout", {"probability": "1"}, r"cutout\.probability.*number"),
        ("cutout", {"probability": 2}, "cutout.*probability.*0…1"),
        ("rotate", {"turns": [4]}, "turns.*0, 1, 2, 3"),
        ("shuffle", {"grid": 2.5}, r"shuffle\.grid\b"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, object], printed: str) -> None:
    with pytest.raises(ValueError, match=printed):
        configure(name, options)


def test_options_are_taken_from_lists_as_in_yaml() -> None:
    assert configure("rotate", {"turns": [1, 3]}) == rotate.Config(turns=(1, 3))
    assert configure("rotate", {}) == rotate.Config()


def test_rotate_turns_each_sample_counter_clockwise() -> None:
    images = pictures(5, 7)
    turns = np.array([3, 0, 1, 2, 1])
    got = rotate.apply(images.clone(), {"turns": turns}, rotate.Config())
    for image, turn, turned in zip(images.numpy(), turns, got.numpy(), strict=True):
        assert np.array_equal(turned, np.rot90(image, turn, axes=(1, 2)))


def test_rotate_draws_the_given_turns_alike() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([rotate.draw(rotate.Config(turns=(1, 2, 3)), 8, rng)["turns"] for _ in range(3000)])
    counts = np.bincount(drawn, minlength=4)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 0.01


def test_shuffle_moves_the_patches() -> None:
    images = pictures(3, 12)
    source = np.stack([np.random.default_rng(seed).permutation(9) for seed in range(3)])
    got = shuffle.apply(images.clone(), {"source": source}, shuffle.Config(grid=3)).numpy()
    expected = np.empty_like(got)
    for sample in range(3):
        for place, patch in enumerate(source[sample]):
            (row, column), (from_row, from_column) = (tuple(4 * np.array(divmod(int(i), 3))) for i in (place, patch))
            expected[sample, :, row : row + 4, column : column + 4] = images[
                sample, :, from_row : from_row + 4, from_column : from_column + 4
            ]
    assert np.array_equal(got, expected)


def test_shuffle_draws_every_order_alike() -> None:
    rng = np.random.default_rng(0)
    drawn = [tuple(shuffle.draw(shuffle.Config(), 8, rng)["source"]) for _ in range(2400)]
    counts = [drawn.count(order) for order in sorted(set(drawn))]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 0.01


def test_shuffle_needs_a_size_that_the_grid_divides() -> None:
    with pytest.raises(ValueError, match=r"grid.*\b3\b.*\b32\b"):
        shuffle.draw(shuffle.Config(grid=3), 32, np.random.default_rng(0))
