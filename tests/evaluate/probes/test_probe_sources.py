"""Probes that are named after a public recipe: learning rates, schedules and interpolation are those of its code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from core.config import load_config
from core.data.crop import draw_crop
from core.data.readers.folder import Folder
from core.schedules import learning_rate_factor
from evaluate.common.protocol import protocol_file
from evaluate.probes.finetune.protocol import FinetuneConfig
from evaluate.probes.knn.protocol import KnnConfig
from evaluate.probes.linear.protocol import LinearConfig
from evaluate.probes.training_views import TrainingViewConfig, TrainingViews

MULAN = tuple(f"linear_mulan_{network}" for network in ("r50", "vit_s", "vit_b"))
DINO = tuple(f"linear_dino_{network}" for network in ("r50", "vit_s", "vit_b"))
PER_EPOCH = (*MULAN, *DINO, "linear_mocov3_r50", "linear_simsiam")


def linear(name: str) -> LinearConfig:
    return load_config(LinearConfig, protocol_file(name, "linear"))


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("linear_dino_r50", (0.3,)),  # the log in facebookresearch/dino, issue 131: absolute
        ("linear_simsiam", (1.6,)),  # facebookresearch/simsiam, main_lincls.py and issue 13: 0.1 × 4,096 / 256
        ("linear_mocov3_r50", (0.4,)),  # facebookresearch/moco-v3, main_lincls.py: 0.1 × 1,024 / 256
        *((name, (0.005,)) for name in MULAN),  # pfdp0/mulan, eval_linear.py
    ],
)
def test_peak_learning_rates(name: str, rates: tuple[float, ...]) -> None:
    assert linear(name).used_lrs() == pytest.approx(rates)


@pytest.mark.parametrize("name", DINO[1:])
def test_dinos_rates_of_a_vit_are_swept_around_the_released_default(name: str) -> None:
    rates = linear(name).used_lrs()  # facebookresearch/dino, eval_linear.py: 0.001 × batch / 256; issue 249: swept
    assert min(rates) < 0.004 < max(rates)
    assert any(rate == pytest.approx(0.004) for rate in rates)


@pytest.mark.parametrize("name", PER_EPOCH)
def test_the_cosine_is_torchs_of_one_step_per_epoch(name: str) -> None:
    """At the first and last of ten steps of each of ten epochs. DINO steps this scheduler; the others write it out."""
    config = linear(name)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.epochs, eta_min=0)
    for epoch in range(10):
        for step in (0, 9):
            factor = learning_rate_factor(config.schedule, 10 * epoch + step, 10, config.epochs)
            assert factor == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-12)
        optimiser.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("name", "test", "crops"),
    [
        *((name, "bilinear", "bilinear") for name in (*MULAN, "linear_mocov3_r50", "linear_simsiam")),
        *((name, "bicubic", "bilinear") for name in DINO),
        *((name, "bicubic", "bicubic") for name in ("linear_mae", "linear_dinov2_grid")),
    ],
)
def test_interpolation_of_linear_probes(name: str, test: str, crops: str) -> None:
    config = linear(name)
    assert (config.features.transform.interpolation, config.augment.interpolation) == (test, crops)


def test_interpolation_of_other_probes() -> None:
    for name, expected in (("knn_mulan", "bilinear"), ("knn_dino", "bicubic")):
        knn = load_config(KnnConfig, protocol_file(name, "knn"))
        assert knn.features.transform.interpolation == expected
    for suffix in ("", "_1pct", "_10pct"):
        config = load_config(FinetuneConfig, protocol_file(f"finetune_mulan_r50{suffix}", "finetune"))
        assert (config.features.transform.interpolation, config.augment.interpolation) == ("bilinear", "bilinear")


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_training_crops_are_torchvisions(interpolation: str, tmp_path: Path) -> None:
    config = TrainingViewConfig(area=(0.3, 0.9), flip=0.0, interpolation=interpolation)  # type: ignore[arg-type]
    noise = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    (tmp_path / "class").mkdir()
    PIL.Image.fromarray(noise).save(tmp_path / "class/1.png")
    images = Folder(tmp_path, "one image")
    views = TrainingViews(images, config, 48, seed=5)
    for epoch in range(4):
        left, top, width, height = draw_crop(130, 90, config.area, config.ratio, np.random.default_rng((5, epoch, 0)))
        expected = reference.resized_crop(
            images.image(0), top, left, height, width, [48, 48], InterpolationMode(interpolation)
        )
        assert np.array_equal(views[epoch, 0][0], np.asarray(expected))
