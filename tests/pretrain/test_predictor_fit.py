"""monitoring/predictor_fit.py: a case known in advance, the loss of a step, and equal bits with and without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from core.data.open import open_images
from core.errors import UserError
from pretrain.build_losses import open_views
from pretrain.losses.base import Encoded, Outputs
from pretrain.losses.byol import Byol
from pretrain.method import Method
from pretrain.monitoring.predictor_fit import PredictorFit, _Projected
from pretrain.views.collate import collate
from pretrain.views.on_device import parameters_of, views_on_device
from tests.pretrain.losses import tiny_losses
from tests.pretrain.tiny_run import ALONE, assert_equal_bits, recipe, run

FITS = ["monitor.predictor_fits=2", "monitor.predictor_images=12", "batch=4", "objective={name: byol}"]


def test_one_map_for_opposite_view_types_loses_what_two_maps_do_not(image_folder: Path) -> None:
    """Global projections are their targets, local ones their negatives: a linear map serves one or the other."""
    config = tiny_losses.recipe(
        "predictors=shared", "predictor.widths=[8]", "projector.widths=[8]", "objective={name: byol}",
        f"data.source=folder:{image_folder}",
    )  # fmt: skip
    method = tiny_losses.build(config, double=False)
    assert isinstance(method.objective, Byol)
    generator = torch.Generator().manual_seed(0)
    batches = []
    for _ in range(2):
        target = torch.randn(32, 8, generator=generator)
        views = [("global", 0, target), ("global", 1, target), ("local", 0, -target), ("local", 1, -target)]
        outputs = [Outputs(name, number, Encoded(heads={"projection": values})) for name, number, values in views]
        batches.append(_Projected([[view] for view in outputs], [target, target]))
    fit = PredictorFit(config, open_images(config.data, "pretrain", 0), ALONE, 0)
    fit.steps = 600
    torch.manual_seed(0)
    linear = {name: nn.Linear(8, 8, bias=False) for name in ("global", "local", "both")}
    alone = [fit._fit(method.objective, {name: linear[name]}, batches, batches)[name] for name in ("global", "local")]
    together = fit._fit(method.objective, dict.fromkeys(("global", "local"), linear["both"]), batches, batches)
    assert [float(loss) for loss in alone] == pytest.approx([0, 0], abs=0.1)
    assert float(sum(together.values())) == pytest.approx(4, abs=1e-4)  # 2 − 2·cos(Wt, t) + 2 − 2·cos(−Wt, t)


@pytest.mark.parametrize("backward", ["per_view", "packed"])
def test_trained_is_the_loss_of_a_step(backward: str, image_folder: Path) -> None:
    config = recipe(
        image_folder,
        *FITS,
        "drop_path=0",
        f"compute.backward={backward}",
        "views.local.weight=0.5",
        "predictors=shared",
    )  # fmt: skip
    images = open_images(config.data, "pretrain", 0)
    torch.manual_seed(0)
    method = Method(config, torch.device("cpu"))
    fit = PredictorFit(config, images, ALONE, 0)
    fit.steps = 3
    before = {name: value.clone() for name, value in method.online.state_dict().items()}
    random = torch.get_rng_state()
    found = fit.measure(method)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in method.online.state_dict().items())
    assert all(parameter.grad is None for parameter in method.online.parameters())
    views = open_views(images, config)
    held_out = fit._batches()[0]
    again = collate([views[0, int(position)] for position in held_out.index])
    losses = method.backward(
        views_on_device(again, config, torch.device("cpu"), method.layout), parameters=parameters_of(again)
    )
    assert set(found) == {f"predictor/{v}/{of}" for v in ("global", "local") for of in ("trained", "alone", "together")}
    assert found["predictor/global/trained"] == pytest.approx(float(losses["global"]), rel=1e-5)
    assert found["predictor/local/trained"] == pytest.approx(float(losses["local"]) / 0.5, rel=1e-5)


def test_a_run_is_the_same_with_and_without(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny ViT draws stochastic depth from torch's generator, which the measurement must not advance."""
    monkeypatch.setattr("pretrain.monitoring.predictor_fit.STEPS", 10)
    config = recipe(image_folder, *FITS, "epochs=2")
    state = run(config, tmp_path / "with")
    plain = run(recipe(image_folder, *FITS, "epochs=2", "monitor.predictor_fits=0"), tmp_path / "without")
    for each in (state, plain):
        del each["config"]
    assert_equal_bits(state, plain)
    lines = [json.loads(line) for line in (tmp_path / "with/metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if "predictor/global/trained" in line]
    assert [line["step"] for line in measured] == [3, 6]
    assert all(line["gradient_norm"] > 0 for line in lines if "loss" in line)


def test_impossible_measurements_are_refused(image_folder: Path) -> None:
    with pytest.raises(UserError, match=r"monitor\.predictor_fits"):
        tiny_losses.recipe("monitor.predictor_fits=1", *tiny_losses.DINO)
    config = recipe(image_folder, *FITS, "monitor.predictor_images=11")
    with pytest.raises(UserError, match=r"predictor_images"):
        PredictorFit(config, open_images(config.data, "pretrain", 0), ALONE, 0)
