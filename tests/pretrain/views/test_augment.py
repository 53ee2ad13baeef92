"""The device stage: the whole recipe per sample against torchvision's functionals, and batch = each sample alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from torchvision.transforms import InterpolationMode

from pretrain.transforms import find
from pretrain.views import augment as module
from pretrain.views.augment import augment
from pretrain.views.config import PhotometricConfig, ViewConfig
from pretrain.views.dataset import draw_photometric

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The threshold 0.5 makes solarisation continuous (1 − 0.5 = 0.5), so that a rounding error can't flip a pixel by much.
RECIPE = PhotometricConfig(flip=0.5, jitter_p=0.8, grey_p=0.3, blur_p=0.6, blur_kernel=9, solarise_p=0.4)


def make(config: ViewConfig, batch: int, seed: int = 0) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """uint8 images (smooth areas, so that the blur is no mere average of noise) and parameters."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((batch, 3, 6, 6)))
    images = torch.nn.functional.interpolate(coarse, size=(config.size, config.size), mode="bilinear")
    images = (images * 255).round().to(torch.uint8)
    samples = []
    for _ in range(batch):
        parameters = draw_photometric(config.photometric[0], rng)
        if config.transform is not None:
            drawn = find(config.transform).draw(config.transform_config, config.size, rng)
            parameters |= {f"{config.transform}.{name}": value for name, value in drawn.items()}
        samples.append(parameters)
    return images, {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def by_torchvision(image: torch.Tensor, parameters: dict[str, np.ndarray]) -> torch.Tensor:
    """One sample, step by step in the documented order."""
    image = reference.to_dtype(image, torch.float32, scale=True)
    if parameters["flip"]:
        image = reference.horizontal_flip(image)
    if "cutout.box" in parameters:
        top, left, height, width = parameters["cutout.box"].tolist()
        image = reference.erase(image, top, left, height, width, torch.tensor(MEAN)[:, None, None])
    if "rotate.turns" in parameters:
        image = reference.rotate(image, 90.0 * int(parameters["rotate.turns"]), InterpolationMode.NEAREST)
    adjust = (
        reference.adjust_brightness,
        reference.adjust_contrast,
        reference.adjust_saturation,
        reference.adjust_hue,
    )
    for number in parameters["jitter_order"]:
        image = adjust[number](image, float(parameters["jitter"][number]))
    if parameters["grey"]:
        image = reference.rgb_to_grayscale(image, 3)
    if parameters["blur_sigma"] > 0:
        image = reference.gaussian_blur(image, [int(parameters["blur_kernel"])] * 2, [float(parameters["blur_sigma"])])
    if np.isfinite(parameters["solarise_from"]):
        image = reference.solarize(image, float(parameters["solarise_from"]))
    return reference.normalize(image, list(MEAN), list(STD))


@pytest.mark.parametrize("transform", [None, "cutout", "rotate"])
@pytest.mark.parametrize("size", [224, 31])
def test_the_whole_recipe_equals_torchvisions_per_sample(transform: str | None, size: int) -> None:
    config = ViewConfig(count=1, size=size, photometric=(RECIPE,), transform=transform)
    images, parameters = make(config, batch=24)
    for name, drawn in (("flip", parameters["flip"]), ("grey", parameters["grey"])):
        assert 0 < drawn.sum() < 24, name  # some samples with, some without
    got = augment(images, parameters, config, MEAN, STD)
    assert got.dtype == torch.float32
    expected = torch.stack(
        [
            by_torchvision(image, {name: values[i] for name, values in parameters.items()})
            for i, image in enumerate(images)
        ]
    )
    # 1e-5 after division by 0.225 is 2.3e-6 of the range 0…1, the rounding of the hue
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("absent", range(4))
def test_a_strength_of_zero_leaves_the_other_three_at_work(absent: int) -> None:
    jitter = tuple(0.0 if number == absent else strength for number, strength in enumerate(RECIPE.jitter))
    recipe = PhotometricConfig(jitter=jitter, jitter_p=1.0, grey_p=0.0, blur_p=0.0)  # type: ignore[arg-type]
    config = ViewConfig(count=1, size=24, photometric=(recipe,))
    images, parameters = make(config, batch=4)
    assert (parameters["jitter"][:, absent] == (absent < 3)).all()
    got = augment(images, parameters, config, MEAN, STD)
    for i in range(4):
        expected = by_torchvision(images[i], {name: values[i] for name, values in parameters.items()})
        torch.testing.assert_close(got[i], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("transform", [None, "cutout", "rotate", "shuffle"])
def test_a_batch_equals_each_sample_alone(transform: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CPU_PIXELS", 10**9)  # the whole batch at once, as on a GPU
    config = ViewConfig(count=1, size=32, photometric=(RECIPE,), transform=transform)
    images, parameters = make(config, batch=32)
    together = augment(images, parameters, config, MEAN, STD)
    for i in range(32):
        own = {name: values[i : i + 1] for name, values in parameters.items()}
        torch.testing.assert_close(
            augment(images[i : i + 1], own, config, MEAN, STD)[0], together[i], rtol=0, atol=1e-5
        )


def test_groups_on_the_cpu_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ViewConfig(count=1, size=32, photometric=(RECIPE,), transform="cutout")
    images, parameters = make(config, batch=20)
    expected = augment(images, parameters, config, MEAN, STD)
    monkeypatch.setattr(module, "CPU_PIXELS", 7 * 32 * 32)  # groups of 7, 7 and 6
    torch.testing.assert_close(augment(images, parameters, config, MEAN, STD), expected, rtol=0, atol=1e-5)


def test_recipes_may_be_mixed_in_a_batch() -> None:
    """Parameters are complete: two views of one type, with recipes of their own, may go through together."""
    second = dataclasses.replace(RECIPE, blur_p=1.0, blur_kernel=15, solarise_p=0.9, solarise_threshold=0.25)
    configs = [ViewConfig(count=1, size=32, photometric=(recipe,)) for recipe in (RECIPE, second)]
    made = [make(config, batch=6, seed=seed) for seed, config in enumerate(configs)]
    apart = [augment(*view, config, MEAN, STD) for view, config in zip(made, configs, strict=True)]
    images = torch.cat([view[0] for view in made])
    parameters = {name: np.concatenate([view[1][name] for view in made]) for name in made[0][1]}
    got = augment(images, parameters, configs[0], MEAN, STD)
    torch.testing.assert_close(got, torch.cat(apart), rtol=0, atol=1e-5)


def test_the_images_are_left_unchanged_and_may_have_any_layout() -> None:
    config = ViewConfig(count=1, size=32, photometric=(RECIPE,), transform="cutout")
    images, parameters = make(config, batch=8)
    kept = images.clone()
    expected = augment(images, parameters, config, MEAN, STD)
    assert torch.equal(images, kept)
    channels_last = images.to(memory_format=torch.channels_last)
    got = augment(channels_last, parameters, config, MEAN, STD)
    assert torch.equal(got, expected)
    assert got.is_contiguous()


def test_without_any_augmentation_only_normalisation_is_left() -> None:
    recipe = PhotometricConfig(flip=0.0, jitter_p=0.0, grey_p=0.0, blur_p=0.0)
    config = ViewConfig(count=1, size=16, photometric=(recipe,))
    images, parameters = make(config, batch=4)
    expected = reference.normalize(reference.to_dtype(images, torch.float32, scale=True), list(MEAN), list(STD))
    assert torch.equal(augment(images, parameters, config, MEAN, STD), expected)


def test_autocast_leaves_the_pixels_alone() -> None:
    config = ViewConfig(count=1, size=32, photometric=(RECIPE,))
    images, parameters = make(config, batch=8)
    expected = augment(images, parameters, config, MEAN, STD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment(images, parameters, config, MEAN, STD), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("transform", [None, "cutout", "rotate", "shuffle"])
def test_cuda_agrees_with_the_cpu_and_is_not_waited_for(transform: str | None) -> None:
    config = ViewConfig(count=1, size=96, photometric=(RECIPE,), transform=transform)
    images, parameters = make(config, batch=32)
    plain = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    expected = augment(images, parameters, config, *plain)
    on_device = images.cuda()
    augment(on_device, parameters, config, *plain)  # libraries set themselves up, which may synchronise
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = augment(on_device, parameters, config, *plain)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=1e-5)
