"""pretrain/method.py: the loss is the formula, for every objective, sharing of predictors and order of passes."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from core.backbones import BackboneConfig, pooled_features
from core.config import load_config
from core.schedules import ScheduleConfig
from pretrain.compute import ComputeConfig
from pretrain.config import ObjectiveConfig, PretrainConfig, TargetConfig
from pretrain.heads import HeadConfig
from pretrain.losses.base import Encoder
from pretrain.losses.byol import byol
from pretrain.losses.mocov3 import mocov3
from pretrain.losses.simsiam import simsiam
from pretrain.method import Method
from pretrain.views.config import PhotometricConfig, ViewConfig, pairs

COUNTS = {"global": 2, "local": 2, "cutout": 1}
WEIGHTS = {"global": 1.0, "local": 0.5, "cutout": 2.0}
SIZES = {"global": 32, "local": 16, "cutout": 32}


def config(**changes: object) -> PretrainConfig:
    plain = (PhotometricConfig(blur_kernel=9),)
    views = {n: ViewConfig(count=COUNTS[n], size=SIZES[n], weight=WEIGHTS[n], photometric=plain) for n in COUNTS}
    base = PretrainConfig(
        batch=4,
        epochs=20,
        backbone=BackboneConfig("resnet18", {"channels": [8, 8, 8, 16]}, stem="small"),
        views=views,
        projector=HeadConfig((16, 8)),
        predictor=HeadConfig((16, 8)),
        schedule=ScheduleConfig(warmup_epochs=0),
        compute=ComputeConfig(channels_last=False),
    )
    return replace(base, **changes)


def some_views(counts: dict[str, int] = COUNTS, batch: int = 4) -> dict[str, list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: [torch.randn(batch, 3, SIZES[name], SIZES[name], generator=generator) for _ in range(count)]
        for name, count in counts.items()
    }


def build(cfg: PretrainConfig) -> Method:
    torch.manual_seed(0)
    return Method(cfg, torch.device("cpu"))


def project(network: Encoder, view: Tensor) -> Tensor:
    return network.projector(pooled_features(network.backbone, view))


def predict(method: Method, view: Tensor, name: str) -> Tensor:
    predictors = method.online.predictors
    return predictors["shared" if "shared" in predictors else name](project(method.online, view))


def formula(method: Method, views: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    """L written out pair by pair, with one graph for everything."""
    cfg = method.config
    target = method.target if method.target is not None else method.online
    losses = {}
    with torch.no_grad():
        targets = [project(target, view) for view in views["global"]]
    for name in method.terms:
        terms = []
        for index, view in enumerate(views[name]):
            prediction = predict(method, view, name)
            for other, projection in enumerate(targets):
                if name == "global" and index == other:
                    continue
                if cfg.objective.name == "byol":
                    terms.append(byol(prediction, projection))
                elif cfg.objective.name == "simsiam":
                    terms.append(simsiam(prediction, projection))
                else:
                    terms.append(mocov3(prediction, projection, cfg.objective.temperature))
        losses[name] = cfg.views[name].weight * torch.stack(terms).mean()
    return losses


@pytest.mark.parametrize("objective", ["byol", "simsiam", "mocov3"])
@pytest.mark.parametrize("predictors", ["per_view", "shared"])
def test_loss_and_gradients_are_the_formula(objective: str, predictors: str) -> None:
    target = TargetConfig("stop_gradient") if objective == "simsiam" else TargetConfig()
    cfg = config(objective=ObjectiveConfig(objective, 0.2), predictors=predictors, target=target)
    ours, reference = build(cfg), build(cfg)
    views = some_views()
    losses = ours.backward(views)
    expected = formula(reference, views)
    torch.stack(list(expected.values())).sum().backward()
    assert losses.keys() == expected.keys()
    for name in losses:
        assert losses[name].item() == pytest.approx(expected[name].item(), rel=1e-5)
    for (name, ours_p), reference_p in zip(ours.online.named_parameters(), reference.online.parameters(), strict=True):
        torch.testing.assert_close(ours_p.grad, reference_p.grad, rtol=1e-4, atol=1e-6, msg=name)
    if ours.target is not None:
        assert all(parameter.grad is None for parameter in ours.target.parameters())


def test_a_loss_sees_how_its_views_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config(compute=ComputeConfig(channels_last=False, backward="packed"))
    method, seen = build(cfg), []
    forward = method.objective.forward
    recording = lambda outputs, *rest: seen.append(outputs) or forward(outputs, *rest)  # noqa: E731
    monkeypatch.setattr(method.objective, "forward", recording)
    parameters = {
        name: [{"box": np.full((4, 4), number), "flip": np.full(4, number > 0)} for number in range(count)]
        for name, count in COUNTS.items()
    }
    method.backward(some_views(), None, parameters)
    groups = [[(view.view, view.index) for view in outputs] for outputs in seen]
    assert groups == [[("global", 0), ("global", 1), ("cutout", 0)], [("local", 0), ("local", 1)]]
    for view in (view for outputs in seen for view in outputs):
        assert view.encoded.vector.shape == (4, 16)
        assert view["projection"].shape == view["prediction"].shape == (4, 8)
        assert (view.box == view.index).all()
        assert (view.flip == (view.index > 0)).all()


def test_predictors_are_one_per_view_type_or_one() -> None:
    assert set(build(config()).online.predictors) == {"global", "local", "cutout"}
    assert set(build(config(predictors="shared")).online.predictors) == {"shared"}


def test_the_default_two_view_loss_is_half_of_byols_sum() -> None:
    cfg = config(views={"global": config().views["global"]})
    method, views = build(cfg), some_views({"global": 2})
    reference = copy.deepcopy(method)
    first, second = views["global"]
    with torch.no_grad():
        z_first, z_second = project(reference.target, first), project(reference.target, second)
    whole = byol(predict(reference, first, "global"), z_second) + byol(predict(reference, second, "global"), z_first)
    assert method.backward(views)["global"].item() == pytest.approx(whole.item() / 2, rel=1e-6)


def test_pairs() -> None:
    views = config().views
    assert [pairs(views, name) for name in views] == [2, 4, 2]
    assert pairs({"global": ViewConfig(count=4)}, "global") == 12
    assert pairs({"global": ViewConfig(count=1)}, "global") == 0


def test_asymmetric_cutout_predicts_from_the_masked_view_only() -> None:
    one = replace(config().views["global"], count=1)
    method = build(config(views={"global": one, "cutout": config().views["cutout"]}))
    assert method.terms == ["cutout"]
    assert set(method.online.predictors) == {"cutout"}
    assert set(method.backward(some_views({"global": 1, "cutout": 1}))) == {"cutout"}


def test_packing_changes_batch_norm_statistics_only() -> None:
    """In eval mode (fixed statistics) packed and per-view passes give the same losses and gradients."""
    methods = [build(config(compute=ComputeConfig(channels_last=False, backward=b))) for b in ("per_view", "packed")]
    views = some_views()
    in_training = [method.backward(views)["local"].item() for method in methods]
    assert in_training[0] != pytest.approx(in_training[1], rel=1e-5)
    losses = []
    for method in methods:
        method.online.zero_grad()
        for network in method.networks():
            network.eval()
            for module in network.modules():
                if hasattr(module, "running_mean"):
                    module.running_mean.fill_(0.1)
                    module.running_var.fill_(1.3)
        losses.append(method.backward(views))
    for name in losses[0]:
        assert losses[0][name].item() == pytest.approx(losses[1][name].item(), rel=1e-5)
    for a, b in zip(methods[0].online.parameters(), methods[1].online.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)


def test_target_is_an_exponential_average_of_parameters() -> None:
    method = build(config())
    assert all(torch.equal(a, b) for a, b in zip(method._averages, method._sources, strict=True))
    before = [tensor.clone() for tensor in method._averages]
    with torch.no_grad():
        for tensor in method._sources:
            tensor.add_(torch.randn_like(tensor))
    method.update_target(0.9)
    for old, new, source in zip(before, method._averages, method._sources, strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * source.detach())
    frozen = [tensor.clone() for tensor in method._averages]
    method.update_target(1.0)
    assert all(torch.equal(a, b) for a, b in zip(frozen, method._averages, strict=True))


def test_stop_gradient_has_no_second_network_and_online_drop_path_only() -> None:
    assert build(config(target=TargetConfig("stop_gradient"))).target is None
    method = build(config(drop_path=0.5))
    names = lambda network: {type(module).__name__ for module in network.modules()}  # noqa: E731
    assert "DropPath" in names(method.online)
    assert "DropPath" not in names(method.target)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_networks_give_the_same_losses_and_gradients() -> None:
    from torch._dynamo.utils import counters

    counters.clear()
    plain, compiled = build(config()), build(config(compute=ComputeConfig(channels_last=False, compile=True)))
    views = some_views()
    expected, found = plain.backward(views), compiled.backward(views)
    assert counters["frames"]["ok"] >= 2  # online and target network at least
    for name, loss in expected.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=1e-4)
    for (name, a), b in zip(plain.online.named_parameters(), compiled.online.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-2, atol=1e-4, msg=name)


def test_bf16_losses_are_fp32_and_close() -> None:
    exact, rounded = build(config()), build(config(compute=ComputeConfig("bf16", channels_last=False)))
    views = some_views()
    for name, loss in rounded.backward(views).items():
        assert loss.dtype == torch.float32
        expected = exact.backward(views)[name].item()
        assert loss.item() == pytest.approx(expected, abs=0.1)
        assert loss.item() != expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("views={local: {count: 1}}", "views.*'global'"),
        ("views={global: {count: 1}}", "one global view"),
        ("predictor.widths=[4096, 128]", r"predictor\.widths.*projector\.widths.*256.*128"),
        ("schedule.warmup_epochs=200", r"schedule\.warmup_epochs.*200.*epochs 200"),
        ("target.momentum=1.1", r"target\b.*momentum"),
        ("views={global: {count: 2, transform: cutuot}}", "cutout"),
    ],
)
def test_impossible_recipes(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(PretrainConfig, None, [override])


@pytest.mark.parametrize("backward", ["per_view", "packed"])
def test_without_a_momentum_network_each_view_passes_once(backward: str) -> None:
    base = config(objective=ObjectiveConfig("simsiam"), target=TargetConfig("stop_gradient"))
    method = build(replace(base, compute=replace(base.compute, backward=backward)))
    norm = next(module for module in method.online.backbone.modules() if isinstance(module, nn.BatchNorm2d))
    seen: list[int] = []
    norm.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    views = some_views()
    method.backward(views)
    assert sum(seen) == 4 * sum(COUNTS.values())
    assert norm.num_batches_tracked == len(seen)
