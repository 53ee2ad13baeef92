"""Linear depth: metrics and losses in closed form, layouts as the devkits ship them, baselines, broken data."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from core.config import load_config
from core.data.scenes.image_set import Scenes
from core.data.scenes.render import ScenesConfig
from core.errors import UserError
from evaluate.common.protocol import list_protocols
from evaluate.dense.depth.bins import bin_depths, depth_losses, gradient_loss, to_depths
from evaluate.dense.depth.crops import draw_depth_crop, lower_middle
from evaluate.dense.depth.data import DepthFiles
from evaluate.dense.depth.metrics import errors, valid_pixels
from evaluate.dense.depth.probe import PROBE
from evaluate.dense.depth.protocol import BinsConfig, DepthConfig, DepthCropConfig
from tests.evaluate.dense.small import SCENES, VIT, measure

FEW = ["heads.iterations=8", "heads.warmup=0", "heads.batch=4", "bins.count=16"]


def test_errors_in_closed_form() -> None:
    truth = np.array([1.0, 2.0, 4.0])
    assert errors(truth, truth) == (0.0, 0.0, 100.0, 0.0, 0.0)
    doubled = errors(2 * truth, truth)
    assert doubled == pytest.approx((math.sqrt((1 + 4 + 16) / 3), 1.0, 0.0, math.log10(2), 0.0), abs=1e-9)
    mixed = errors(np.array([1.2, 2.0, 2.0]), truth)
    assert mixed[1:3] == pytest.approx(((0.2 + 0.5) / 3, 200 / 3))
    logs = np.log([1.2, 1.0, 0.5])
    assert mixed[4] == pytest.approx(100 * logs.std())


def test_pixels_that_count() -> None:
    depth = np.full((480, 640), 5.0)
    assert valid_pixels(depth, (0.001, 10.0), "eigen").sum() == (471 - 45) * (601 - 41)
    kitti = valid_pixels(np.full((352, 1216), 5.0), (0.001, 80.0), "garg")
    assert kitti.sum() == (int(0.99189189 * 352) - int(0.40810811 * 352)) * (
        int(0.96405229 * 1216) - int(0.03594771 * 1216)
    )
    depth[0, :3] = 0.0, 10.0, 80.0
    assert not valid_pixels(depth, (0.001, 10.0), "none")[0, :3].any()


def test_bins_weights_and_depths() -> None:
    config = BinsConfig(count=4, range=(1.0, 8.0), spacing="log", upsample=1)
    assert bin_depths(config).tolist() == pytest.approx([1, 2, 4, 8])
    outputs = torch.tensor([0.0, -3.0, 0.9, 0.0])[None, :, None, None]
    assert to_depths(outputs, config).item() == pytest.approx((0.1 + 0.2 + 4.0 + 0.8) / 1.3)
    assert bin_depths(BinsConfig(count=3, range=(0.001, 10.0))).tolist() == pytest.approx([0.001, 5.0005, 10.0])


def test_the_loss_is_that_of_its_formula() -> None:
    config = BinsConfig(count=4, range=(0.5, 9.0), spacing="linear", upsample=2)
    torch.manual_seed(0)
    outputs, depth = torch.randn(2, 3, 4, 5, 6), torch.rand(3, 10, 12) * 12
    found = depth_losses(config, 0.0, lambda values, *_: values)(outputs, depth, 100)
    early = depth_losses(config, 0.0, lambda values, *_: values)(outputs, depth, 99)
    valid = (depth > 0.5) & (depth < 9.0)
    for head in range(2):
        g = torch.log(to_depths(outputs[head], config)[:, 0] + 0.001) - torch.log(depth + 0.001)
        g = g[valid]
        assert found[head].item() == pytest.approx(math.sqrt(g.var() + 0.15 * g.mean() ** 2), rel=1e-4)
        assert early[head].item() == pytest.approx(math.sqrt(0.15) * abs(float(g.mean())), rel=1e-4)


def test_the_gradient_loss_of_a_ramp_and_of_a_constant() -> None:
    ramp = (0.5 * torch.arange(32.0)).expand(1, 1, 32, 32)
    valid = torch.ones(1, 32, 32, dtype=torch.bool)
    assert gradient_loss(ramp, valid).item() == pytest.approx(0.5 * 2 * (1 + 2 + 4 + 6))
    assert gradient_loss(torch.ones(1, 1, 32, 32), valid).item() == 0.0
    valid[:, ::2] = False
    assert gradient_loss(ramp, valid).item() == pytest.approx(0.5 * 2), "coarser strides see invalid rows alone"


def test_a_crop_takes_the_same_place_of_image_and_depth() -> None:
    depth = np.random.default_rng(0).integers(1, 200, (40, 60)).astype(np.float32)
    image = PIL.Image.fromarray(np.repeat(depth.astype(np.uint8)[..., None], 3, axis=2))
    config = DepthCropConfig(border=(2, 3, 58, 39), rotation=0.0, size=(32, 24), colour=0.0)
    for seed in range(5):
        pixels, found = draw_depth_crop(image, depth, config, np.random.default_rng(seed), "image")
        assert (pixels[..., 0] == found).all()
        assert found.shape == (24, 32)
    assert lower_middle((1242, 375), (1216, 352)) == (13, 23, 1229, 375)
    with pytest.raises(UserError, match=r"crop\.size"):
        draw_depth_crop(image, depth, DepthCropConfig(size=(80, 24)), np.random.default_rng(0), "image")


def test_scenes_with_baselines_and_pictures(tmp_path: Path) -> None:
    found = measure(PROBE, tmp_path, *SCENES, *FEW, "train_labels=16", "--draw", "1", ckpt=VIT)
    assert {"rmse", "all_rmse", "baseline_mean_rmse", "baseline_far_delta1", "baseline_mask_rmse"} <= found.keys()
    config = ScenesConfig(size=32, objects=(1, 2), radius=(0.2, 0.4), train=16, test=8)
    train, test = (
        [
            (scene.depth.astype(float), scene.semantic > 0)
            for scene in map(Scenes(part, config).annotations, range(count))
        ]
        for part, count in (("train", 16), ("test", 8))
    )
    mean = np.concatenate([depth.ravel() for depth, _ in train]).mean()
    near = np.concatenate([depth[mask] for depth, mask in train]).mean()
    expected = {
        "mean_rmse": [np.sqrt(((depth - mean) ** 2).mean()) for depth, _ in test],
        "far_rmse": [np.sqrt(((depth - 10) ** 2).mean()) for depth, _ in test],
        "far_delta1": [100 * (depth == 10).mean() for depth, _ in test],
        "mask_rmse": [np.sqrt(((depth - near) ** 2 * mask).mean()) for depth, mask in test],
        "objects_rmse": [np.sqrt(((depth - near)[mask] ** 2).mean()) for depth, mask in test],
        "objects_abs_rel": [(abs(depth - near) / depth)[mask].mean() for depth, mask in test],
    }
    for name, values in expected.items():
        assert found[f"baseline_{name}"] == pytest.approx(np.mean(values), rel=1e-5), name
    assert found["rmse"] == min(head["rmse"] for head in found["heads"])
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1


def write_nyu(root: Path, images: int = 4, scale: float = 1000.0) -> Path:
    """BTS's layout: scenes as folders, lists with a leading slash and a focal length, millimetres in 16 bits."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        lines = []
        for number in range(images):
            depth = rng.uniform(1, 9, (48, 64))
            depth[0, 0] = 0
            folder = root / f"basement_000{number}a"
            folder.mkdir(parents=True, exist_ok=True)
            shade = np.repeat((depth * 25).astype(np.uint8)[..., None], 3, axis=2)
            PIL.Image.fromarray(shade).save(folder / f"rgb_{split}.jpg", quality=95)
            PIL.Image.fromarray((depth * scale).astype(np.uint16)).save(folder / f"sync_depth_{split}.png")
            start = "/" if split == "train" else ""
            lines.append(f"{start}{folder.name}/rgb_{split}.jpg {start}{folder.name}/sync_depth_{split}.png 518.8579")
        (root / f"nyu_{split}.txt").write_text("\n".join(lines) + "\n")
    return root


NYU = [*FEW, "features.size=32", "crop.border=null", "crop.size=[40,32]", "test_crop=none", "heads.lrs=[0.01]",
       "features.class_token=false"]  # fmt: skip


def test_nyus_layout(tmp_path: Path) -> None:
    root = write_nyu(tmp_path / "nyu")
    found = measure(PROBE, tmp_path / "out", "--data", f"nyu:{root}", *NYU)
    assert found["images"] == 4
    assert 0 < found["rmse"] < 10
    first = DepthFiles(root, "nyu", "val")
    assert first.depth(0)[0, 0] == 0
    assert first.depth(0).max() == pytest.approx(9, abs=0.2)


def test_kittis_list_leaves_out_frames_without_depth(tmp_path: Path) -> None:
    image, depth = (tmp_path / name for name in ("input/2011/a.png", "gt_depth/drive/a.png"))
    for file in (image, depth):
        file.parent.mkdir(parents=True)
    PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
    PIL.Image.fromarray(np.full((8, 8), 2560, np.uint16)).save(depth)
    (tmp_path / "kitti_eigen_test.txt").write_text("2011/a.png drive/a.png 721.5\n2011/b.png None 721.5\n")
    images = DepthFiles(tmp_path, "kitti", "val")
    assert (len(images), images.account().skipped) == (1, {"listed without a depth map": 1})
    assert images.depth(0)[0, 0] == 10.0


@pytest.mark.parametrize("fault", ["units", "mode", "size", "list", "columns", "missing", "outside", "sun", "source"])
def test_broken_data_ends_in_one_sentence(fault: str, tmp_path: Path) -> None:
    root = write_nyu(tmp_path / "nyu", scale=1.0 if fault == "units" else 1000.0)
    depth, listed, data = root / "basement_0000a/sync_depth_train.png", root / "nyu_train.txt", f"nyu:{root}"
    if fault == "units":
        PIL.Image.fromarray(np.full((48, 64), 60_000, np.uint16)).save(depth)
    if fault == "mode":
        PIL.Image.fromarray(np.zeros((48, 64), np.uint8)).save(depth)
    if fault == "size":
        PIL.Image.fromarray(np.full((8, 8), 2000, np.uint16)).save(depth)
    if fault == "list":
        listed.unlink()
    if fault == "columns":
        listed.write_text("one\n")
    if fault == "missing":
        depth.unlink()
    if fault == "outside":
        listed.write_text("../../etc/passwd ../../etc/passwd 1\n")
    if fault == "sun":
        data = f"sunrgbd:{root}"
    if fault == "source":
        data = "voc12aug:/nowhere"
    with pytest.raises(UserError) as raised:
        measure(PROBE, tmp_path / "out", "--data", data, *NYU, protocol="depth_nyu_dinov2_lin1")
    assert "\n" not in str(raised.value)
    words = ("millimetres", "16-bit", "same size", "nyu_train.txt", "test_source", "data.source")
    assert any(word in str(raised.value) for word in words)


def test_protocols_hold_the_ranges_of_their_data() -> None:
    configs = {file.stem: load_config(DepthConfig, file) for file in list_protocols("depth")}
    assert {name: config.bins.range[1] for name, config in configs.items() if "kitti" in name} == {
        "depth_kitti_dinov2_lin1": 80.0, "depth_kitti_dinov2_lin4": 80.0,
    }  # fmt: skip
    assert len(configs["depth_nyu_dinov3"].heads.heads()) == 6
    assert configs["depth_nyu_dinov2_lin4"].features.blocks == (2, 5, 8, 11)
