"""A compiled step on a GPU equals the eager one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pretrain.test_gpu import BACKBONES, batch_of, recipe, step

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact_products")]


def test_a_compiled_step_equals_the_eager_one(image_folder: Path) -> None:
    config = recipe(image_folder, *BACKBONES["resnet"])
    batch = batch_of(config)
    compiled = recipe(image_folder, *BACKBONES["resnet"], "compute.compile=true")
    assert step(compiled, batch, "cuda")[0] == pytest.approx(step(config, batch, "cuda")[0], rel=1e-3)
