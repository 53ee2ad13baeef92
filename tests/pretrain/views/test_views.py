"""Views: crops as torchvision makes them, reproducible by (seed, epoch, position), broken images replaced."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field

import numpy as np
import PIL.Image
import pytest
import torch
import torchvision.transforms as transforms_v1
import torchvision.transforms.v2.functional as reference
from scipy import stats
from torch.utils.data import DataLoader
from torchvision.transforms import InterpolationMode

from core.data.crop import draw_crop
from core.errors import BrokenImage, UserError
from pretrain.views.collate import Sample, collate
from pretrain.views.config import PhotometricConfig, Resampler, ViewConfig
from pretrain.views.dataset import Views, draw_photometric

VIEWS = {
    "global": ViewConfig(
        count=2, size=48, photometric=(PhotometricConfig(blur_p=1.0), PhotometricConfig(blur_p=0.1, solarise_p=0.2))
    ),
    "cutout": ViewConfig(count=1, size=32, transform="cutout"),
}


@dataclass
class Noise:
    """Random pictures of differing sizes; those in `broken` can't be decoded."""

    length: int = 12
    broken: frozenset[int] = frozenset()
    name: str = "noise"
    classes: tuple[str, ...] = ()
    decoded: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return self.length

    def image(self, index: int) -> PIL.Image.Image:
        if index in self.broken:
            raise BrokenImage(self.describe(index), "made so")
        self.decoded.append(index)
        rng = np.random.default_rng(index)
        coarse = rng.integers(0, 256, (12, 10 + index, 3), dtype=np.uint8)
        return PIL.Image.fromarray(coarse).resize((100 + 10 * index, 90), PIL.Image.Resampling.BICUBIC)

    def label(self, index: int) -> int:
        return -1

    def describe(self, index: int) -> str:
        return f"noise/{index}.png"

    def digest(self) -> str:
        return ""


def same(first: Sample, second: Sample) -> bool:
    pairs = [(a, b) for name in first.views for a, b in zip(first.views[name], second.views[name], strict=True)]
    return first.index == second.index and all(
        torch.equal(a.images, b.images)
        and a.parameters.keys() == b.parameters.keys()
        and all(np.array_equal(a.parameters[key], b.parameters[key]) for key in a.parameters)
        for a, b in pairs
    )


@pytest.mark.parametrize("resampler", ["torch", "pillow"])
def test_the_pixels_of_a_crop_are_torchvisions(resampler: Resampler) -> None:
    """On tensors with torch, on Pillow's images with Pillow. The first draws are those of the first view's crop."""
    views = Views(Noise(), VIEWS, seed=3, resampler=resampler)
    for index in range(12):
        image = Noise().image(index)
        left, top, width, height = draw_crop(
            image.width, image.height, (0.25, 1.0), (3 / 4, 4 / 3), np.random.default_rng((3, 7, index))
        )
        source = reference.pil_to_tensor(image) if resampler == "torch" else image
        expected = reference.resized_crop(source, top, left, height, width, [48, 48], InterpolationMode.BICUBIC)
        got = views[7, index].views["global"][0].images
        assert got.shape == (3, 48, 48)
        assert torch.equal(got, expected if resampler == "torch" else reference.pil_to_tensor(expected))


def test_the_resamplers_differ_by_a_grey_level_in_places() -> None:
    images, views = Noise(), VIEWS | {"large": ViewConfig(count=2, size=224)}
    apart = [
        (one.images.int() - other.images.int()).abs()
        for index in range(12)
        for name, of_type in Views(images, views, 3, "torch")[0, index].views.items()
        for one, other in zip(of_type, Views(images, views, 3, "pillow")[0, index].views[name], strict=True)
    ]
    assert max(int(values.max()) for values in apart) in (1, 2)
    assert sum(float(values.float().mean()) for values in apart) / len(apart) < 0.1


def test_an_image_is_decoded_once_per_sample() -> None:
    images = Noise()
    Views(images, VIEWS, seed=0)[0, 5]
    assert images.decoded == [5]


def test_views_depend_on_seed_epoch_and_position_alone() -> None:
    views = Views(Noise(), VIEWS, seed=3)
    assert same(views[2, 4], Views(Noise(), VIEWS, seed=3)[2, 4])
    for other in (Views(Noise(), VIEWS, seed=4)[2, 4], views[3, 4]):
        assert other.index == 4
        assert not torch.equal(other.views["global"][0].images, views[2, 4].views["global"][0].images)
    first, second = views[2, 4].views["global"]
    assert not torch.equal(first.images, second.images)


@pytest.mark.parametrize(("workers", "size"), [(0, 5), (2, 3), (2, 6)])
def test_workers_and_batch_size_change_nothing(workers: int, size: int) -> None:
    keys = [(1, index) for index in (3, 0, 7, 5, 2, 11)]
    torch.manual_seed(workers)  # the streams of torch, Python and NumPy have no say
    random.seed(workers)
    views = Views(Noise(), VIEWS, seed=9)
    batches = [keys[start : start + size] for start in range(0, len(keys), size)]
    context = "fork" if workers else None
    loader = DataLoader(
        views, batch_sampler=batches, num_workers=workers, collate_fn=collate, multiprocessing_context=context
    )
    expected = collate([views[key] for key in keys])
    got = list(loader)
    assert torch.cat([batch.index for batch in got]).tolist() == [index for _, index in keys]
    for name, of_type in expected.views.items():
        for number, view in enumerate(of_type):
            parts = [batch.views[name][number] for batch in got]
            assert torch.equal(torch.cat([part.images for part in parts]), view.images)
            for key, values in view.parameters.items():
                assert np.array_equal(np.concatenate([part.parameters[key] for part in parts]), values), key


def test_a_batch_has_the_documented_shapes() -> None:
    batch = collate([Views(Noise(), VIEWS, seed=0)[0, index] for index in (4, 1, 6)])
    assert {name: [tuple(view.images.shape) for view in views] for name, views in batch.views.items()} == {
        "global": [(3, 3, 48, 48), (3, 3, 48, 48)],
        "cutout": [(3, 3, 32, 32)],
    }
    assert batch.index.dtype == torch.int64
    assert batch.index.tolist() == [4, 1, 6]
    assert batch.broken == []
    parameters = batch.views["cutout"][0].parameters
    assert {name: (values.dtype.name, values.shape) for name, values in parameters.items()} == {
        "box": ("float32", (3, 4)),
        "flip": ("bool", (3,)),
        "jitter": ("float32", (3, 4)),
        "jitter_order": ("int8", (3, 4)),
        "grey": ("bool", (3,)),
        "blur_sigma": ("float32", (3,)),
        "blur_kernel": ("int64", (3,)),
        "solarise_from": ("float32", (3,)),
        "cutout.box": ("int64", (3, 4)),
    }


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_pinned_for_the_copy_to_the_device(workers: int) -> None:
    views = Views(Noise(), VIEWS, seed=0)
    keys = [[(0, 1), (0, 2)], [(0, 3), (0, 4)]]
    loader = DataLoader(views, batch_sampler=keys, num_workers=workers, collate_fn=collate, pin_memory=True)
    for batch, wanted in zip(loader, keys, strict=True):
        expected = collate([views[key] for key in wanted])
        for name, of_type in batch.views.items():
            for got, view in zip(of_type, expected.views[name], strict=True):
                assert got.images.is_pinned()
                assert torch.equal(got.images.to("cuda", non_blocking=True).cpu(), view.images)


def test_a_broken_image_is_replaced_and_named() -> None:
    views = Views(Noise(broken=frozenset({2, 5})), VIEWS, seed=0)
    sample = views[0, 2]
    assert sample.broken[0] == "noise/2.png"
    assert set(sample.broken) <= {"noise/2.png", "noise/5.png"}
    assert sample.index not in (2, 5)
    assert same(sample, views[0, 2])
    assert collate([views[0, 1], sample, views[0, 5]]).broken[: len(sample.broken)] == sample.broken
    assert len({views[epoch, 2].index for epoch in range(20)}) > 4  # not always the same stand-in


def test_too_many_broken_images_end_in_an_error() -> None:
    views = Views(Noise(broken=frozenset(range(12))), VIEWS, seed=0)
    with pytest.raises(UserError, match=r"11 .*\bnoise\b.* noise/\d+\.png: made so"):
        views[0, 2]


@pytest.mark.parametrize(
    ("width", "height", "area", "ratio"),
    [
        (500, 375, (0.25, 1.0), (3 / 4, 4 / 3)),
        (96, 96, (0.08, 0.25), (3 / 4, 4 / 3)),
        (400, 90, (0.6, 1.0), (3 / 4, 4 / 3)),  # boxes hardly ever fit: retries and the central fall-back
        (90, 400, (0.3, 0.7), (0.5, 1.0)),
    ],
)
def test_crops_are_distributed_as_torchvisions(
    width: int, height: int, area: tuple[float, float], ratio: tuple[float, float]
) -> None:
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    blank = PIL.Image.new("L", (width, height))
    ours = np.array([draw_crop(width, height, area, ratio, rng) for _ in range(3000)])
    theirs = np.array(
        [transforms_v1.RandomResizedCrop.get_params(blank, list(area), list(ratio)) for _ in range(3000)]
    )[:, [1, 0, 3, 2]]
    assert ours.min() >= 0
    assert (ours[:, 0] + ours[:, 2]).max() <= width
    assert (ours[:, 1] + ours[:, 3]).max() <= height
    for statistic in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 2] / box[:, 3],
        lambda box: box[:, 0],
        lambda box: box[:, 1],
        lambda box: box[:, 0] + box[:, 2],
    ):
        assert stats.ks_2samp(statistic(ours), statistic(theirs)).pvalue > 0.01


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [
        (100, 10, (43, 0, 13, 10)),  # too wide: height × 4/3, rounded
        (10, 100, (0, 43, 10, 13)),  # too tall: width / (3/4), rounded
    ],
)
def test_a_crop_that_never_fits_is_the_largest_central_one(
    width: int, height: int, box: tuple[int, int, int, int]
) -> None:
    assert draw_crop(width, height, (1.0, 1.0), (3 / 4, 4 / 3), np.random.default_rng(0)) == box


def test_probabilities_and_ranges_are_kept() -> None:
    config = PhotometricConfig(
        flip=0.3, jitter=(0.4, 1.5, 0.2, 0.1), jitter_p=0.6, grey_p=0.25, blur_p=0.7, solarise_p=0.15,
        blur_sigma=(0.5, 1.5), blur_kernel=9, solarise_threshold=0.75,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    draws = [draw_photometric(config, rng) for _ in range(4000)]
    together = {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}
    jittered = (together["jitter"] != (1, 1, 1, 0)).all(1)
    blurred = together["blur_sigma"] > 0
    solarised = np.isfinite(together["solarise_from"])
    for share, probability in (
        (together["flip"], 0.3),
        (jittered, 0.6),
        (together["grey"], 0.25),
        (blurred, 0.7),
        (solarised, 0.15),
        (together["flip"] & together["grey"], 0.3 * 0.25),
        (jittered & blurred, 0.6 * 0.7),
    ):
        assert stats.binomtest(int(share.sum()), 4000, probability).pvalue > 0.01
    factors = together["jitter"][jittered]
    for column, (low, high) in enumerate(((0.6, 1.4), (0.0, 2.5), (0.8, 1.2), (-0.1, 0.1))):
        assert stats.kstest(factors[:, column], "uniform", (low, high - low)).pvalue > 0.01
    assert (together["jitter"][~jittered] == (1, 1, 1, 0)).all()
    first = together["jitter_order"][jittered][:, 0]
    for number, column in itertools.product(range(4), range(4)):  # the order doesn't depend on the factors
        assert stats.mannwhitneyu(factors[first == number, column], factors[first != number, column]).pvalue > 0.005
    assert stats.kstest(together["blur_sigma"][blurred], "uniform", (0.5, 1.0)).pvalue > 0.01
    assert (together["solarise_from"][solarised] == 0.75).all()
    assert (together["blur_kernel"] == 9).all()
    counts = [int((together["jitter_order"] == order).all(1).sum()) for order in itertools.permutations(range(4))]
    assert sum(counts) == 4000
    assert stats.chisquare(counts).pvalue > 0.01


def test_the_last_recipe_serves_for_the_remaining_views() -> None:
    always, never = PhotometricConfig(blur_p=1.0), PhotometricConfig(blur_p=0.0)
    views = Views(Noise(), {"global": ViewConfig(count=3, size=32, photometric=(always, never))}, seed=0)
    for index in range(12):
        blurred = [view.parameters["blur_sigma"] > 0 for view in views[0, index].views["global"]]
        assert blurred == [True, False, False]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UserError, match=r"seed.*-1"):
        Views(Noise(), VIEWS, seed=-1)
