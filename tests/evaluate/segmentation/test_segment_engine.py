"""The parts given to MMSegmentation: metric, network, weights, rates, transforms; against scikit-learn and itself."""

# ruff: noqa: E402, the packages are made importable first

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.distributed as dist
from sklearn.metrics import confusion_matrix

pytest.importorskip("mmseg", reason="needs MMSegmentation", exc_type=ImportError)

from converters.engines.openmmlab import import_mmseg

import_mmseg()

from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample

from converters.open import open_backbone
from core.backbones import Backbone
from core.config import load_config
from core.distributed import Processes
from core.errors import BrokenImage, UserError
from evaluate.common.context import RunContext
from evaluate.common.protocol import protocol_file
from evaluate.segmentation.engine.data_pipeline import RandomScale, ReadImage, ReadLabels
from evaluate.segmentation.engine.engine_settings import engine_settings
from evaluate.segmentation.engine.metric import ConfusionMetric, scores
from evaluate.segmentation.engine.training_extensions import PlainCheckpointHook
from evaluate.segmentation.model.segmentor import build_segmentor
from evaluate.segmentation.protocol import SegmentConfig

ALONE = RunContext(Processes(0, 1, torch.device("cpu")), workers=0, seed=0)
TINY_VIT = "timm:vit_small_patch16_224(img_size=64, depth=12, embed_dim=48, num_heads=3)"


def _config(name: str, *overrides: str) -> SegmentConfig:
    return load_config(SegmentConfig, protocol_file(name, "segmentation"), overrides)


def _build(config: SegmentConfig, backbone: Backbone) -> tuple[Any, str, dict[str, Any]]:
    names = tuple(map(str, range(config.data.classes)))
    settings = engine_settings(config, backbone, Path("/d"), names, ALONE, Path("/w"))
    model, account = build_segmentor(config, settings["model"], backbone, ALONE)
    return model, account, settings


def _samples(count: int, classes: int, side: int = 64) -> list[SegDataSample]:
    samples = []
    for number in range(count):
        labels = torch.randint(0, classes, (1, side, side), generator=torch.Generator().manual_seed(number))
        labels[:, :3] = 255
        sample = SegDataSample(metainfo={"ori_shape": (side, side), "img_shape": (side, side)})
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return samples


# Metric


def test_scores_equal_scikit_learn_and_the_engines_own_metric() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, (3, 20, 30))
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 6, truth.shape))
    truth[:, :4] = 255
    names = tuple("abcdefg")  # f is predicted and never true, g occurs nowhere
    metric, theirs = ConfusionMetric(), IoUMetric()
    metric.dataset_meta = theirs.dataset_meta = {"classes": names}
    samples = [
        {"pred_sem_seg": {"data": torch.tensor(p)[None]}, "gt_sem_seg": {"data": torch.tensor(t)[None]}}
        for p, t in zip(predicted, truth, strict=True)
    ]
    metric.process(None, samples)
    theirs.process({}, samples)
    found, reference = metric.compute_metrics(metric.results), theirs.compute_metrics(theirs.results)
    counted = truth != 255
    matrix = confusion_matrix(truth[counted], predicted[counted], labels=range(7))
    right, union = np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    for number, name in enumerate(names[:6]):
        assert found["IoU"][name] == pytest.approx(100 * right[number] / union[number], abs=1e-12)
    assert found["IoU"]["g"] is None
    assert found["mIoU"] == pytest.approx(100 * np.mean(right[:6] / union[:6]), abs=1e-12)
    assert found["mAcc"] == pytest.approx(100 * np.mean(right[:5] / matrix.sum(1)[:5]), abs=1e-12)
    assert found["aAcc"] == pytest.approx(100 * right.sum() / matrix.sum(), abs=1e-12)
    for key in ("mIoU", "mAcc", "aAcc"):
        assert found[key] == pytest.approx(reference[key], abs=0.006)  # it rounds to two digits


def test_scores_stay_exact_where_float32_counts_do_not() -> None:
    matrix = np.array([[2**24 + 1, 0], [0, 1]])
    assert scores(matrix, ["a", "b"])["aAcc"] == 100.0
    assert scores(np.array([[2**24, 1], [0, 0]]), ["a", "b"])["IoU"]["a"] == 100 * 2**24 / (2**24 + 1)


# Network


def test_every_tensor_is_loaded_and_a_partial_file_refused() -> None:
    config = _config("scenes_fcn_r18_400it")
    backbone = open_backbone("timm:resnet18(channels=[8,16,32,64])", seed=3)
    model, account, _ = _build(config, backbone)
    assert "126 of 126 tensors" in account
    for name, tensor in backbone.model.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], tensor)
    model.train()
    loss = model.loss(torch.randn(2, 3, 64, 64), _samples(2, 9))["decode.loss_ce"]
    loss.backward()
    assert backbone.model.conv1.weight.data_ptr() != model.backbone.conv1.weight.data_ptr()  # type: ignore[union-attr]
    assert model.backbone.conv1.weight.grad.abs().sum() > 0
    del backbone.model.layer4[1].bn2  # type: ignore[union-attr, operator, index]
    with pytest.raises(UserError, match="121 matched, 5 missing"):
        _build(config, backbone)


def test_layers_learn_at_decaying_rates(capsys: pytest.CaptureFixture[str]) -> None:
    config = _config("ade20k_upernet_vit_s_160k", "crop.size=64", "inference.stride=64", "head.channels=16")
    model, _, settings = _build(config, open_backbone(TINY_VIT))
    groups = build_optim_wrapper(model, settings["optim_wrapper"]).optimizer.param_groups
    assert capsys.readouterr().out == ""
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    assert len(rates) == len(list(model.parameters()))

    def rate(parameter: torch.nn.Parameter) -> float:
        return rates[id(parameter)] / 3e-5

    assert rate(model.decode_head.conv_seg.weight) == pytest.approx(1)
    for block, layer in enumerate(model.backbone.layers):
        assert rate(layer.ffn.layers[1].weight) == pytest.approx(0.9 ** (12 - block))
    assert rate(model.backbone.patch_embed.projection.weight) == pytest.approx(0.9**13)


def test_a_frozen_backbone_and_windows_that_cover_the_image() -> None:
    overrides = ("network.backbone=vit_small_patch16_224", "crop.size=64", "inference.stride=48")
    config = _config("ade20k_linear_vit_b", *overrides)
    model, account, _ = _build(config, open_backbone(TINY_VIT))
    assert account.endswith("; frozen")
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learning == ["decode_head.conv_seg.weight", "decode_head.conv_seg.bias"]
    assert model.decode_head.conv_seg.weight.shape == (150, 4 * 48, 1, 1)
    model.eval()
    with torch.inference_mode():
        found = model.predict(torch.randn(1, 3, 80, 100), _samples(1, 150, 80))[0]
    assert found.pred_sem_seg.data.shape == (1, 80, 80)


@pytest.mark.parametrize("name", ["voc_fcn_r50_20k_densecl", "voc_fcn_r50_30k_moco", "ade20k_upernet_r50_160k"])
def test_resnet_protocols_build_and_run(name: str) -> None:
    config = _config(name, "head.channels=16")
    model, account, _ = _build(config, open_backbone("timm:resnet50"))
    assert "318 of 318 tensors" in account
    model.eval()
    stride = {8: 8, 16: 16, 32: 4}[config.network.output_stride]  # UPerNet's finest map is that of stride 4
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, config.data.classes, 64 // stride, 64 // stride)


# Transforms and hooks


def test_labels_are_read_and_checked(tmp_path: Path) -> None:
    read, file = ReadLabels({"layout": "ade20k", "classes": 5}), tmp_path / "x.png"
    common = {"ori_shape": (2, 2), "seg_map_path": str(file), "reduce_zero_label": True}
    PIL.Image.fromarray(np.array([[0, 1], [5, 255]], np.uint8)).save(file)
    assert read(common | {"seg_fields": []})["gt_seg_map"].tolist() == [[255, 0], [4, 255]]
    with pytest.raises(UserError, match=r"x\.png.*size"):
        read(common | {"seg_fields": [], "ori_shape": (4, 1)})
    PIL.Image.fromarray(np.array([[0, 1], [6, 255]], np.uint8)).save(file)
    with pytest.raises(UserError, match=r"x\.png.*label 6\b.*1 … 5"):
        read(common | {"seg_fields": []})
    file.write_bytes(file.read_bytes()[:45])
    with pytest.raises(BrokenImage, match=r"x\.png: .*(truncated|broken)"):
        read(common | {"seg_fields": []})


def test_images_are_read_whole_and_upright_as_their_labels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # "turn me by 90°": the labels' pixels are those of the file
    PIL.Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    found = ReadImage()({"img_path": str(tmp_path / "x.png")})
    assert np.array_equal(found["img"], pixels[..., ::-1])
    assert found["img_shape"] == found["ori_shape"] == (20, 30)
    PIL.Image.fromarray(pixels).save(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:-200])
    with pytest.raises(BrokenImage, match=r"x\.jpg: .*truncated"):
        ReadImage()({"img_path": str(tmp_path / "x.jpg")})


@pytest.mark.parametrize("world", [1, 2])
def test_frozen_norms_stand_still(world: int) -> None:
    config = _config("scenes_fcn_r18_400it", "network.frozen=true")
    backbone = open_backbone("timm:resnet18(channels=[8,16,32,64])")
    context = RunContext(Processes(0, world, torch.device("cpu")), workers=0, seed=0)
    settings = engine_settings(config, backbone, Path("/d"), tuple("123456789"), context, Path("/w"))
    model, account = build_segmentor(config, settings["model"], backbone, context)
    assert re.search("126 of 126 tensors.*frozen", account)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    model.loss(torch.randn(2, 3, 64, 64), _samples(2, 9))["decode.loss_ce"].backward()
    moved = {name.partition(".")[0] for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert moved == {"decode_head"}
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


@pytest.mark.parametrize("final_norm", [False, True])
def test_blocks_behind_the_last_tap_are_frozen(final_norm: bool) -> None:
    config = _config("ade20k_semfpn_vit_s_40k", "crop.size=64", "network.taps=[2,5,8,10]",
                     f"network.final_norm={str(final_norm).lower()}")  # fmt: skip
    model, account, _ = _build(config, open_backbone(TINY_VIT))
    assert re.search("block 10.*frozen", account)
    unseen = {
        name
        for name, parameter in model.named_parameters()
        if name.startswith(("backbone.layers.11.", "backbone.ln1.")) and not parameter.requires_grad
    }
    assert len(unseen) == 12 + 2 * final_norm
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        shared = torch.nn.parallel.DistributedDataParallel(model.train())
        for _ in range(2):  # a parameter without a gradient is noticed in the second step
            losses = shared(torch.randn(2, 3, 64, 64), _samples(2, 150), mode="loss")
            losses["decode.loss_ce"].backward()
    finally:
        dist.destroy_process_group()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == unseen


def test_random_scale_is_relative_to_the_image() -> None:
    np.random.seed(0)  # noqa: NPY002, the engine's generator
    sizes = set()
    for _ in range(20):
        item = {"img": np.zeros((40, 60, 3), np.uint8), "gt_seg_map": np.zeros((40, 60), np.uint8),
                "img_shape": (40, 60), "seg_fields": ["gt_seg_map"]}  # fmt: skip
        found = RandomScale((0.5, 2.0))(item)
        assert found["img"].shape[:2] == found["gt_seg_map"].shape
        sizes.add(found["img"].shape[:2])
        assert abs(found["img"].shape[0] * 1.5 - found["img"].shape[1]) <= 1.5
    heights = sorted(height for height, _ in sizes)
    assert heights[0] >= 20
    assert heights[-1] <= 80
    assert heights[-1] - heights[0] > 30


def test_checkpoints_are_made_plain() -> None:
    hub = {
        "log_scalars": {"train/loss": object()},
        "runtime_info": {"iter": np.int64(3), "nested": {"lr": [np.float64(0.5)]}},
        "resumed_keys": {"iter": True, "train/loss": True},
    }
    document: dict[str, Any] = {"message_hub": hub, "meta": {}}
    PlainCheckpointHook(time.time() - 100).before_save_checkpoint(None, document)
    assert 100 <= document["meta"]["seconds"] < 110
    assert document["message_hub"] == {
        "log_scalars": {},
        "runtime_info": {"iter": 3, "nested": {"lr": [0.5]}},
        "resumed_keys": {"iter": True},
    }
    assert type(document["message_hub"]["runtime_info"]["iter"]) is int
