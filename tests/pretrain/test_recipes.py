"""configs/pretrain against the published recipes, field by field, and every recipe as a network that trains."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.backbones import build_backbone, feature_width
from core.config import load_config
from pretrain.config import PretrainConfig
from pretrain.heads import HeadConfig, build_head
from pretrain.views.config import PhotometricConfig

FOLDER = Path(__file__).resolve().parents[2] / "configs/pretrain"
OTHER_LOSSES = ("vit_s_dino", "vit_s_ibot", "vit_s_selfpatch")
PUBLISHED = sorted(
    path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith(("demo", "stl10", "cifar", *OTHER_LOSSES))
)


def recipe(name: str) -> PretrainConfig:
    return load_config(PretrainConfig, FOLDER / f"{name}.yaml")


def test_all_published_recipes_are_there() -> None:
    r50 = [f"r50_{objective}_{views}" for objective in ("byol", "mocov3", "simsiam")
           for views in ("2globals", "multicrop", "multitask")]  # fmt: skip
    assert sorted([*r50, "r50_byol_multitask_800ep", "vit_s_byol_multitask", "vit_b_byol_multitask"]) == PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_optimiser_schedule_and_heads(name: str) -> None:
    config = recipe(name)
    optim, target, schedule = config.optim, config.target, config.schedule
    assert config.epochs == (800 if name.endswith("800ep") else 200)
    assert config.predictors == "per_view"
    assert schedule.end == 0.001
    if "simsiam" in name:
        assert (optim.name, optim.lr, optim.weight_decay, optim.momentum) == ("sgd", 0.05, 1e-4, 0.9)
        assert (config.batch, schedule.warmup_epochs, schedule.granularity) == (512, 0, "epoch")
        assert optim.constant_predictor_lr
        assert target.kind == "stop_gradient"
        assert config.projector == HeadConfig((2048, 2048, 2048), output_norm=True)
        assert config.predictor == HeadConfig((512, 2048))
    elif name.startswith("vit"):
        assert (optim.name, optim.lr, optim.weight_decay, optim.betas) == ("adamw", 3e-4, 0.1, (0.9, 0.98))
        assert (config.batch, schedule.warmup_epochs, optim.clip, config.drop_path) == (1024, 10, 0.5, 0.1)
        assert (target.kind, target.momentum) == ("ema", 0.998)
        assert config.projector == HeadConfig((4096, 4096, 256))
        assert config.predictor == HeadConfig((4096, 256))
    else:
        assert (optim.name, optim.lr, optim.weight_decay) == ("lars", 0.4, 1.5e-6)
        assert (optim.momentum, optim.trust) == (0.9, 0.001)
        assert (config.batch, schedule.warmup_epochs, schedule.granularity) == (1024, 10, "step")
        assert (target.kind, target.momentum) == ("ema", 0.996)
        output_norm = "mocov3" in name
        assert config.projector == config.predictor == HeadConfig((4096, 256), output_norm)
    if "mocov3" in name:
        assert (config.objective.name, config.objective.temperature) == ("mocov3", 1.0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_views(name: str) -> None:
    config = recipe(name)
    counts = {key: view.count for key, view in config.views.items()}
    weights = {view.weight for view in config.views.values()}
    glob = config.views["global"]
    assert {view.ratio for view in config.views.values()} == {(3 / 4, 4 / 3)}
    assert glob.size == 224
    jitter = (0.4, 0.4, 0.4 if name == "r50_simsiam_2globals" else 0.2, 0.1)
    for view in config.views.values():
        for photometric in view.photometric:
            assert (photometric.flip, photometric.jitter, photometric.jitter_p) == (0.5, jitter, 0.8)
            assert (photometric.grey_p, photometric.blur_sigma, photometric.blur_kernel) == (0.2, (0.1, 2.0), 23)
    if name == "r50_simsiam_2globals":
        assert [p.blur_p for p in glob.photometric] == [0.5]
    else:
        assert [(p.blur_p, p.solarise_p) for p in glob.photometric] == [(1.0, 0.0), (0.1, 0.2)]
        assert glob.photometric[1].solarise_threshold == 0.5
    if name.endswith("2globals"):
        assert counts == {"global": 2}
        assert glob.area == ((0.08 if "byol" in name else 0.2), 1.0)
        assert weights == {1.0 if "simsiam" in name else 2.0}  # the original losses are sums over both directions
        return
    local = config.views["local"]
    assert (local.size, local.area, [p.blur_p for p in local.photometric]) == (96, (0.08, 0.25), [0.5])
    assert glob.area == (0.25, 1.0)
    if "multicrop" in name:
        assert counts == {"global": 2, "local": 4}
        return
    assert counts == {"global": 2, "local": 4 if name.endswith("800ep") else 2, "cutout": 1}
    assert weights == {1 / 3 if "simsiam" in name else 1.0}
    cutout = config.views["cutout"]
    assert (cutout.size, cutout.area, cutout.transform) == (224, (0.25, 1.0), "cutout")
    assert cutout.transform_config.area == (0.2, 0.4)
    assert cutout.photometric == (PhotometricConfig(blur_p=0.5),)


def test_recipes_with_prototypes() -> None:
    """SelfPatch: README and defaults of its code, its issue 2 for the epochs; DINO's defaults; iBOT's README."""
    # batch, epochs, global area, local area, locals, τ_t, warm-up of τ_t, end of the learning rate
    published = {
        "vit_s_dino": (512, 100, (0.4, 1.0), (0.05, 0.4), 8, 0.04, 0, 1e-6),
        "vit_s_selfpatch": (1024, 200, (0.25, 1.0), (0.05, 0.25), 8, 0.04, 0, 1e-6),
        "vit_s_ibot": (1024, 800, (0.25, 1.0), (0.05, 0.25), 10, 0.07, 30, 1e-6),
    }
    assert set(published) == set(OTHER_LOSSES)
    for name, (batch, epochs, global_area, local_area, count, temperature, warmup, end) in published.items():
        config = recipe(name)
        optim, local, views = config.optim, config.views["local"], config.views
        assert (config.batch, config.epochs, config.drop_path, config.target.momentum) == (batch, epochs, 0.1, 0.996)
        assert (views["global"].area, local.area, local.count, local.size) == (global_area, local_area, count, 96)
        assert views["global"].weight == pytest.approx(2 / (2 + 2 * count))
        assert local.weight == pytest.approx(2 * count / (2 + 2 * count))
        assert (optim.name, optim.lr, optim.weight_decay, optim.decay_end) == ("adamw", 5e-4, 0.04, 0.4)
        assert (optim.clip, optim.clip_mode, optim.freeze) == (3.0, "tensor", {"prototypes": 1})
        assert config.schedule.warmup_epochs == 10
        assert config.schedule.end * optim.lr * batch / 256 == pytest.approx(end)
        options = config.objective.options
        assert options["teacher"]["temperature"] == temperature
        assert options["teacher"]["warmup_epochs"] == warmup


@pytest.mark.parametrize(
    ("name", "size", "kernel", "pretext"),
    [
        ("stl10_scatsimclr30_rotation", 96, 9, "rotation"),
        ("stl10_simclr_r18_rotation", 96, 9, "rotation"),
        ("cifar100_20_scatsimclr30_jigsaw", 32, 3, "jigsaw"),
    ],
)
def test_recipes_of_scatsimclr(name: str, size: int, kernel: int, pretext: str) -> None:
    """arXiv 2108.13939 and its public code: views, heads, temperature, λ."""
    config = recipe(name)
    (photometric,) = config.views["global"].photometric
    assert (config.views["global"].size, config.views["global"].area) == (size, (0.08, 1.0))
    assert (photometric.jitter, photometric.jitter_p, photometric.grey_p) == ((0.8, 0.8, 0.8, 0.2), 0.8, 0.2)
    assert (photometric.blur_p, photometric.blur_kernel) == (0.5, 2 * int(0.05 * size) + 1)
    assert photometric.blur_kernel == kernel
    assert (config.objective.name, config.objective.temperature, config.target.kind) == ("simclr", 0.5, "none")
    auxiliary = config.auxiliary[pretext]
    assert [auxiliary.weight_at(epoch) for epoch in (39, 40)] == [0, 0.3]
    assert config.projector == HeadConfig((512 if "r18" in name else 2048, 128), hidden_norm=False)
    assert (config.optim.lr * config.batch / 256, config.optim.weight_decay) == (3e-4, 1e-5)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_headers_give_command_hardware_and_score(path: Path) -> None:
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert f"pretrain/run.py --config configs/pretrain/{path.name}" in header[0]
    assert any(line.startswith("# Hardware:") for line in header)
    assert any(re.match(r"# Expect.*: .*\d", line) for line in header)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("name", ["r50_byol_multitask", "vit_s_byol_multitask", "vit_b_byol_multitask"])
def test_architectures_exist(name: str) -> None:
    config = recipe(name)
    width = {"r50_byol_multitask": 2048, "vit_s_byol_multitask": 384, "vit_b_byol_multitask": 768}[name]
    backbone = build_backbone(config.backbone, config.drop_path)
    assert feature_width(backbone) == width
    assert build_head(width, config.projector)[0].in_features == width
