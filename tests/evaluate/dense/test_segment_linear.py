"""Linear segmentation: crops, windows, the whole command on scenes and on VOC's layout, and broken data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from core.backbones import fixed_backbone
from core.config import load_config
from core.errors import UserError
from evaluate.common.protocol import list_protocols
from evaluate.dense.heads import PixelHeads, SweepConfig
from evaluate.dense.maps import MapConfig, open_taps
from evaluate.dense.segment_linear.crops import draw_crop
from evaluate.dense.segment_linear.probe import PROBE
from evaluate.dense.segment_linear.protocol import CropConfig, SegmentLinearConfig, SegmentTestConfig
from evaluate.dense.segment_linear.testing import starts, window_logits
from tests.evaluate.dense.small import SCENES, VIT, measure, write_voc

FEW = ["heads.iterations=6", "heads.warmup=0", "heads.batch=4"]


def test_a_crop_takes_the_same_place_of_image_and_labels() -> None:
    labels = np.random.default_rng(0).integers(0, 200, (40, 60)).astype(np.uint8)
    image = PIL.Image.fromarray(np.repeat(labels[..., None], 3, axis=2))
    config = CropConfig(ratio=(1.0, 1.0), flip=0.5, photometric=False)
    for seed in range(6):
        pixels, target = draw_crop(image, labels, config, 40, np.random.default_rng(seed))
        assert (pixels[..., 0] == target).all()
        assert any((target[:, ::turn] == labels[:, left : left + 40]).all() for left in range(21) for turn in (1, -1))
    pixels, target = draw_crop(image, labels, CropConfig(ratio=(0.5, 0.5), flip=0.0), 40, np.random.default_rng(0))
    assert (target[20:] == 255).all()
    assert (target[:20, :30] != 255).all()
    assert (pixels[20:] == 0).all()


def test_windows_cover_the_image_and_their_mean_is_the_logits_of_the_whole() -> None:
    assert (starts(100, 40, 30), starts(40, 40, 30), starts(30, 40, 30)) == ([0, 30, 60], [0], [0])
    backbone = fixed_backbone("pixels")
    assert backbone is not None
    taps = open_taps(backbone, MapConfig(size=16), torch.device("cpu"))
    heads = PixelHeads(192, 3, SweepConfig(lrs=(0.1, 0.2), weight_decays=(0.0,), batch_norm=False), 0).eval()
    images = torch.randn(1, 3, 16, 16)
    slide = window_logits(taps, backbone.model, heads, images, 16, SegmentTestConfig(stride=8))
    whole = window_logits(taps, backbone.model, heads, images, 16, SegmentTestConfig("whole"))
    torch.testing.assert_close(slide, whole)
    constant = torch.ones(1, 3, 24, 40)
    even = window_logits(taps, backbone.model, heads, constant, 16, SegmentTestConfig(stride=8))
    assert even.shape == (2, 3, 24, 40)
    torch.testing.assert_close(even, even[..., :1, :1].expand_as(even))


def test_scenes_by_cached_maps_with_pictures(tmp_path: Path) -> None:
    found = measure(PROBE, tmp_path, *SCENES, *FEW, "train_labels=16", "--draw", "1", ckpt=VIT)
    assert 0 < found["mIoU"] <= 100
    assert set(found["IoU"]) >= {"background", "disc"}
    assert found["mIoU"] == max(row["mIoU"] for row in found["heads"])
    assert found["majority_mIoU"] == pytest.approx(found["majority_aAcc"] / 9, rel=0.5)
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1


def test_vocs_layout_is_learned_from_crops_and_tested_by_windows_scales_and_flips(tmp_path: Path) -> None:
    root = write_voc(tmp_path)
    small = ["features.size=32", "test.stride=16", "heads.lrs=[0.05]", "heads.weight_decays=[0.0]"]
    more = ["test.scales=[1.0,1.5]", "test.flip=true", "heads.iterations=40", "heads.warmup=0", "heads.batch=4"]
    found = measure(PROBE, tmp_path / "out", "--data", f"voc12aug:{root}", *small, *more)
    assert found["aAcc"] > 75, "two colours of halves are separable by one convolution on pixels"
    assert found["aAcc"] > found["majority_aAcc"] + 10
    assert found["IoU"]["train"] is None


@pytest.mark.parametrize("fault", ["list", "label", "number", "size", "image", "source", "block"])
def test_broken_data_ends_in_one_sentence(fault: str, tmp_path: Path) -> None:
    root = write_voc(tmp_path)
    data, extra = f"voc12aug:{root}", ["features.size=32"]
    label, image = (root / f"VOC2012/{name}" for name in ("SegmentationClass/val_0.png", "JPEGImages/val_0.jpg"))
    if fault == "list":
        (root / "VOC2012/ImageSets/Segmentation/val.txt").unlink()
    if fault == "label":
        label.unlink()
    if fault == "number":
        PIL.Image.fromarray(np.full((32, 40), 77, np.uint8)).save(label)
    if fault == "size":
        PIL.Image.fromarray(np.zeros((8, 8), np.uint8)).save(label)
    if fault == "image":
        image.write_bytes(b"\xff\xd8 not a picture")
    if fault == "source":
        data = "folder:/nowhere"
    if fault == "block":
        extra += ["features.blocks=[4]"]
    with pytest.raises(UserError) as raised:
        measure(PROBE, tmp_path / "out", "--data", data, *extra, *FEW)
    assert "\n" not in str(raised.value)
    assert any(word in str(raised.value) for word in ("val.txt", "val_0", "77", "data.source", "features.blocks"))


def test_the_published_protocols_are_those_of_the_sources() -> None:
    configs = {file.stem: load_config(SegmentLinearConfig, file) for file in list_protocols("segment_linear")}
    assert len(configs) == 10
    third = configs["segment_linear_ade20k_dinov3"]
    assert (len(third.heads.heads()), third.heads.iterations, third.test.stride, third.features.size) == (
        6, 40_000, 341, 512,
    )  # fmt: skip
    several = configs["segment_linear_voc12aug_dinov2_ms"]
    assert (several.features.size, several.features.blocks) == (640, (-4, -3, -2, -1))


def test_a_tolerated_broken_image_is_not_drawn(tmp_path: Path) -> None:
    root = write_voc(tmp_path)
    (root / "VOC2012/JPEGImages/val_0.jpg").write_bytes(b"\xff\xd8 not a picture")
    small = ["features.size=32", "features.broken_share=0.5", "heads.lrs=[0.05]", "heads.weight_decays=[0.0]"]
    measure(PROBE, tmp_path / "out", "--data", f"voc12aug:{root}", *small, *FEW, "--draw", "4")
    assert len(list((tmp_path / "out/pictures").glob("*.png"))) == 3
