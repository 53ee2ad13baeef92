"""Segmentation protocols against the published recipes, field by field, down to the engine's config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from converters.open import open_backbone
from core.config import load_config
from core.distributed import Processes
from core.errors import UserError
from evaluate.common.context import RunContext
from evaluate.common.protocol import full_name, list_protocols, protocol_file
from evaluate.segmentation.engine.engine_settings import engine_settings
from evaluate.segmentation.engine.scaling import batch_per_process, scale_to_batch
from evaluate.segmentation.probe import PERFORMANCE_KEYS
from evaluate.segmentation.protocol import SegmentConfig
from evaluate.tables.published import read_published

pytestmark = pytest.mark.usefixtures("no_weights")
FILES = list_protocols("segmentation")
FOUR_GPUS = RunContext(Processes(0, 4, torch.device("cuda", 0)), workers=2, seed=0)


def _config(name: str, *overrides: str) -> SegmentConfig:
    return load_config(SegmentConfig, protocol_file(name, "segmentation"), overrides)


def _engine(name: str, context: RunContext = FOUR_GPUS, *overrides: str) -> dict[str, Any]:
    config = _config(name, *overrides)
    backbone = open_backbone(f"timm:{config.network.backbone}")
    names = tuple(map(str, range(config.data.classes)))
    return engine_settings(config, backbone, Path("/data"), names, context, Path("/work"))


def _pipeline(engine: dict[str, Any], loader: str = "train_dataloader") -> dict[str, dict[str, Any]]:
    return {step["type"]: step for step in engine[loader]["dataset"]["pipeline"]}


def test_all_load_under_their_own_names() -> None:
    assert {file.stem for file in FILES} == {
        "ade20k_upernet_r50_160k", "ade20k_upernet_vit_s_160k", "ade20k_upernet_vit_b_160k", "ade20k_semfpn_vit_s_40k",
        "ade20k_linear_r50", "ade20k_linear_vit_s", "ade20k_linear_vit_b", "voc_fcn_r50_20k_densecl",
        "voc_fcn_r50_30k_moco", "cityscapes_fcn_r50_40k_densecl", "cityscapes_fcn_r50_90k_moco", "scenes_fcn_r18_400it",
        "scenes_linear_r18_150it",
        "ade20k_upernet_swin_t_160k", "ade20k_upernet_convnext_t_160k", "ade20k_upernet_dinov2_vit_b_160k",
    }  # fmt: skip
    for file in FILES:
        config = load_config(SegmentConfig, file)
        assert config.name == file.stem == full_name(config, file, PERFORMANCE_KEYS)
        assert protocol_file(file.stem, "segmentation") == file
        assert file.read_text().startswith(("# python evaluate/segment.py", "# torchrun"))
    with pytest.raises(UserError, match=r"voc_fcn_r50_30k_moc\b.*voc_fcn_r50_30k_moco\b"):
        protocol_file("voc_fcn_r50_30k_moc", "segmentation")


def test_a_file_promises_a_published_score_only_where_the_network_is_the_published_one() -> None:
    numbers = read_published()
    for file in FILES:
        exact = {number.exact for number in numbers if number.protocol == file.stem}
        assert exact <= {"voc" in file.stem}
        assert ("# Expect, as published" in file.read_text()) == (True in exact)
    assert all(number.note for number in numbers if not number.exact)


@pytest.mark.parametrize(
    ("name", "crop", "iterations", "batch"),
    [("voc_fcn_r50_20k_densecl", 512, 20_000, 16), ("cityscapes_fcn_r50_40k_densecl", 769, 40_000, 8)],
)
def test_fcn_as_densecl(name: str, crop: int, iterations: int, batch: int) -> None:
    engine = _engine(name)
    model, head, auxiliary = engine["model"], engine["model"]["decode_head"], engine["model"]["auxiliary_head"]
    assert model["backbone"] == {
        "type": "ResNet", "depth": 50, "stem_channels": 64, "base_channels": 64, "num_stages": 4,
        "strides": [1, 2, 1, 1], "dilations": [1, 1, 2, 4], "out_indices": [0, 1, 2, 3], "style": "pytorch",
        "contract_dilation": True, "norm_cfg": {"type": "SyncBN", "requires_grad": True}, "norm_eval": False,
        "init_cfg": None,
    }  # fmt: skip
    assert (head["type"], head["in_channels"], head["in_index"], head["channels"], head["num_convs"]) == (
        "FCNHead", 2048, 3, 512, 2,
    )  # fmt: skip
    assert head["concat_input"]
    assert (auxiliary["type"], auxiliary["in_channels"], auxiliary["in_index"], auxiliary["num_convs"]) == (
        "FCNHead", 1024, 2, 1,
    )  # fmt: skip
    assert head["loss_decode"]["loss_weight"] == 1.0
    assert auxiliary["loss_decode"]["loss_weight"] == 0.4
    assert head["norm_cfg"]["type"] == auxiliary["norm_cfg"]["type"] == "SyncBN"
    assert engine["optim_wrapper"] == {
        "type": "OptimWrapper", "optimizer": {"type": "SGD", "momentum": 0.9, "lr": 0.01, "weight_decay": 5e-4},
    }  # fmt: skip
    assert engine["param_scheduler"] == [
        {"type": "PolyLR", "power": 0.9, "eta_min": 1e-4, "by_epoch": False, "begin": 0, "end": iterations}
    ]
    assert engine["train_cfg"]["max_iters"] == iterations
    assert engine["train_dataloader"]["batch_size"] * 4 == batch
    assert _pipeline(engine)["RandomCrop"]["crop_size"] == (crop, crop)
    assert model["data_preprocessor"]["size"] == (crop, crop)


@pytest.mark.parametrize(
    ("name", "crop", "lr", "iterations", "steps"),
    [
        ("voc_fcn_r50_30k_moco", 513, 0.003, 30_000, [21_000, 27_000]),
        ("cityscapes_fcn_r50_90k_moco", 769, 0.01, 90_000, [63_000, 81_000]),
    ],
)
def test_fcn_as_moco(name: str, crop: int, lr: float, iterations: int, steps: list[int]) -> None:
    engine = _engine(name)
    backbone, head = engine["model"]["backbone"], engine["model"]["decode_head"]
    assert (backbone["strides"], backbone["dilations"]) == ([1, 2, 2, 1], [1, 1, 1, 2])  # stride 16
    assert not backbone["contract_dilation"]  # all 3×3 convolutions of the last stage have dilation 2
    assert (head["type"], head["channels"], head["num_convs"], head["dilation"]) == ("FCNHead", 256, 2, 6)
    assert "auxiliary_head" not in engine["model"]
    assert engine["optim_wrapper"]["optimizer"] == {"type": "SGD", "momentum": 0.9, "lr": lr, "weight_decay": 1e-4}
    assert engine["param_scheduler"] == [{"type": "MultiStepLR", "milestones": steps, "gamma": 0.1, "by_epoch": False}]
    assert engine["train_cfg"]["max_iters"] == iterations
    assert engine["train_dataloader"]["batch_size"] * 4 == 16
    pipeline = _pipeline(engine)
    assert pipeline["RandomCrop"]["crop_size"] == (crop, crop)
    assert pipeline["RandomScale"]["ratio"] == (0.5, 2.0)
    assert "Resize" not in _pipeline(engine, "test_dataloader")


@pytest.mark.parametrize(
    ("name", "lr", "decay", "width"),
    [
        ("ade20k_upernet_r50_160k", 1e-4, None, 512),
        ("ade20k_upernet_vit_s_160k", 3e-5, 0.9, 384),
        ("ade20k_upernet_vit_b_160k", 8e-5, 0.65, 768),
    ],
)
def test_upernet_on_ade20k(name: str, lr: float, decay: float | None, width: int) -> None:
    engine = _engine(name)
    model, wrapper = engine["model"], engine["optim_wrapper"]
    assert (model["decode_head"]["type"], model["decode_head"]["channels"]) == ("UPerHead", width)
    assert model["decode_head"]["num_classes"] == 150
    assert wrapper["optimizer"] == {"type": "AdamW", "betas": (0.9, 0.999), "lr": lr, "weight_decay": 0.05}
    assert engine["param_scheduler"] == [
        {"type": "LinearLR", "start_factor": 1e-6, "by_epoch": False, "begin": 0, "end": 1500},
        {"type": "PolyLR", "power": 1.0, "eta_min": 0.0, "by_epoch": False, "begin": 0, "end": 160_000},
    ]
    assert engine["train_cfg"]["max_iters"] == 160_000
    assert engine["train_dataloader"]["batch_size"] * 4 == 16
    assert engine["train_dataloader"]["dataset"]["reduce_zero_label"]
    assert _pipeline(engine)["RandomCrop"]["crop_size"] == (512, 512)
    if decay is None:
        assert model["test_cfg"] == {"mode": "whole"}
        assert "constructor" not in wrapper
        return
    assert model["test_cfg"] == {"mode": "slide", "crop_size": (512, 512), "stride": (341, 341)}
    assert wrapper["paramwise_cfg"] == {"num_layers": 12, "decay_rate": decay, "decay_type": "layer_wise"}
    assert model["backbone"]["type"] == "NormedTapsMAEVisionTransformer"
    assert model["backbone"]["out_indices"] == [3, 5, 7, 11]
    assert model["backbone"]["drop_path_rate"] == 0.1
    assert model["backbone"]["norm_cfg"] == {"type": "LN", "eps": 1e-6}
    assert model["neck"]["rescales"] == [4, 2, 1, 0.5]


def test_semantic_fpn_as_selfpatch() -> None:
    engine = _engine("ade20k_semfpn_vit_s_40k")
    model, wrapper = engine["model"], engine["optim_wrapper"]
    assert model["neck"]["type"] == "FPN"
    assert not model["backbone"]["with_cls_token"]
    assert model["decode_head"]["type"] == "FPNHead"
    assert model["backbone"]["out_indices"] == [2, 5, 8, 11]
    assert model["backbone"]["drop_path_rate"] == 0.1
    assert wrapper["optimizer"] == {"type": "AdamW", "betas": (0.9, 0.999), "lr": 6e-5, "weight_decay": 0.01}
    assert [part["type"] for part in engine["param_scheduler"]] == ["LinearLR", "PolyLR"]
    assert (engine["param_scheduler"][0]["end"], engine["param_scheduler"][1]["power"]) == (1500, 1.0)
    assert engine["train_cfg"]["max_iters"] == 40_000
    assert engine["train_dataloader"]["batch_size"] == 4
    assert _pipeline(engine)["RandomCrop"]["crop_size"] == (512, 512)


@pytest.mark.parametrize(("size", "channels"), [("vit_b", 4 * 768), ("vit_s", 4 * 384), ("r50", 15 * 256)])
def test_linear_on_frozen_features(size: str, channels: int) -> None:
    config, engine = _config(f"ade20k_linear_{size}"), _engine(f"ade20k_linear_{size}")
    assert config.network.frozen
    assert engine["optim_wrapper"]["optimizer"] == {
        "type": "AdamW", "betas": (0.9, 0.999), "lr": 8e-4, "weight_decay": 0.05,
    }  # fmt: skip
    model, head = engine["model"], engine["model"]["decode_head"]
    assert (head["num_convs"], head["channels"], head["dropout_ratio"]) == (0, channels, 0.0)
    assert not {"neck", "auxiliary_head"} & model.keys()
    assert model["test_cfg"] == {"mode": "slide", "crop_size": (512, 512), "stride": (341, 341)}
    assert engine["train_cfg"]["max_iters"] == 160_000
    if size == "r50":
        assert model["backbone"]["norm_eval"]


def test_norms_and_precision_follow_the_processes() -> None:
    alone, gloo = (RunContext(Processes(0, world, torch.device("cpu")), workers=2, seed=0) for world in (1, 2))
    name = "scenes_fcn_r18_400it"
    for context in (alone, gloo):
        assert _engine(name, context)["model"]["decode_head"]["norm_cfg"]["type"] == "BN"
    assert _engine(name, gloo)["model_wrapper_cfg"]["device_ids"] is None
    assert _engine(name, gloo)["launcher"] == "pytorch"
    assert _engine(name)["model"]["decode_head"]["norm_cfg"]["type"] == "SyncBN"
    assert _engine(name, FOUR_GPUS, "sync_norm=false")["model"]["decode_head"]["norm_cfg"]["type"] == "BN"
    half = _engine(name, FOUR_GPUS, "precision=fp16")["optim_wrapper"]
    assert (half["type"], half["dtype"]) == ("AmpOptimWrapper", "float16")
    assert _engine(name, alone, "precision=bf16")["optim_wrapper"]["type"] == "CpuAutocastOptimWrapper"
    with pytest.raises(UserError, match=r"precision=fp16.*GPU"):
        _engine(name, alone, "precision=fp16")


def test_the_linear_rule() -> None:
    config = _config("ade20k_upernet_vit_s_160k")
    scaled, printed = scale_to_batch(config, 4, 1)
    assert (scaled.batch, scaled.optim.lr) == (4, 7.5e-6)
    assert (scaled.schedule.iterations, scaled.schedule.warmup) == (640_000, 6000)
    assert all(part in printed for part in ("16 -> 4", "× 0.25 = 7.5e-06", "÷ 0.25 = 640,000", "6,000")), printed
    assert scale_to_batch(config, None, 4) == scale_to_batch(config, None, 16) == (config, "")
    assert scale_to_batch(config, 16, 1) == (config, "")
    stepped, _ = scale_to_batch(_config("voc_fcn_r50_30k_moco"), 8, 1)
    assert (stepped.optim.lr, stepped.schedule.iterations, stepped.schedule.steps) == (0.0015, 60_000, (42_000, 54_000))
    file = protocol_file("voc_fcn_r50_30k_moco", "segmentation")
    assert full_name(stepped, file, PERFORMANCE_KEYS) == (
        "voc_fcn_r50_30k_moco (modified: optim.lr=0.0015, schedule.iterations=60000, "
        "schedule.steps=[42000,54000], batch=8)"
    )
    with pytest.raises(UserError, match="--batch"):
        scale_to_batch(config, 0, 1)
    with pytest.raises(UserError, match=r"--batch 2000000 .*1 of 160,000 iterations.*warmup"):
        scale_to_batch(config, 2_000_000, 1)
    alone, why = scale_to_batch(config, None, 1)
    assert (alone.batch, alone.optim.lr, alone.schedule.iterations) == (4, 7.5e-6, 640_000)
    assert all(part in why for part in ("16 -> 4 (1 process ", "× 0.25 = 7.5e-06")), why
    assert full_name(alone, protocol_file("ade20k_upernet_vit_s_160k", "segmentation"), PERFORMANCE_KEYS).endswith(
        "batch=4)"
    )
    scenes = _config("scenes_fcn_r18_400it")
    assert scale_to_batch(scenes, None, 1) == scale_to_batch(scenes, None, 4) == (scenes, "")
    assert batch_per_process(16, 4) == 4
    with pytest.raises(UserError, match=r"\b16 .*\b3 processes.* --batch 15"):
        batch_per_process(16, 3)


@pytest.mark.parametrize(
    ("old", "new"),
    [("crop.most_of_one_class=0.5", "crop.cat_max_ratio"), ("schedule.least_lr=0.1", "schedule.min_lr")],
)
def test_a_former_key_names_the_new_one(old: str, new: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{old.partition('=')[0]}.*{new}\b"):
        _config("scenes_fcn_r18_400it", old)
    section, _, rest = old.replace("=", ": ").partition(".")
    (tmp_path / "x.yaml").write_text(f"{section}: {{{rest}}}")
    with pytest.raises(UserError, match=rf"x\.yaml.*{new}\b"):
        load_config(SegmentConfig, tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.processes=3", "batch 16.*processes 3"),
        ("data.classes=8", "classes.* 9 .*scenes.*8"),
        ("network.taps=[3,3]", r"taps.*\[3, 3\]"),
        ("schedule.steps=[10]", "power.*steps"),
        ("schedule.warmup=400", r"warmup.*iterations.*400"),
        ("inference={mode: slide, stride: 97}", r"inference\.stride.*crop\.size.*96"),
    ],
)
def test_impossible_settings(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _config("scenes_fcn_r18_400it", override)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["network.backbone=resnet34"], "resnet34.*resnet18"),
        (["network.output_stride=8"], "output_stride"),
        (["optim.layer_decay=0.9"], r"optim\.layer_decay.*resnet18"),
    ],
)
def test_what_does_not_go_together(overrides: list[str], message: str) -> None:
    config = _config("scenes_fcn_r18_400it", *overrides)
    alone = RunContext(Processes(0, 1, torch.device("cpu")), workers=0, seed=0)
    with pytest.raises(UserError, match=message):
        engine_settings(config, open_backbone("timm:resnet18"), Path(), ("a",) * 9, alone, Path())
