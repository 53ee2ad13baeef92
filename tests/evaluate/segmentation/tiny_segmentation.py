"""Runs of evaluate/segment.py that take seconds, and the same scores from the files by scikit-learn."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.metrics import confusion_matrix

from converters.open import open_backbone
from core.config import load_config
from core.distributed import Processes
from evaluate.common.context import RunContext
from evaluate.segment import main
from evaluate.segmentation.data.layouts import find_root
from evaluate.segmentation.protocol import SegmentConfig
from tests.torchrun import ROOT

SCRIPT = ROOT / "evaluate" / "segment.py"
BACKBONE = "timm:resnet18(channels=[8,16,32,64])"
FILES = ["config.yaml", "metrics.jsonl", "pictures", "result.json", "segmentor.pth"]
"""What a run with `--draw` leaves in its folder."""
PROTOCOL = """
name: tiny
data: {layout: scenes, classes: 9, scenes: {size: 32, radius: [0.3, 0.4], train: 12, test: 7}}
network: {backbone: resnet18}
head: {kind: fcn, channels: 8, convs: 1, every_map: true, auxiliary: 0.0}
optim: {name: sgd, lr: 0.05, weight_decay: 0.0}
schedule: {iterations: 6, warmup: 2, power: 0.9}
crop: {size: 32, scale: [32, 32], ratio: [1.0, 1.0], cat_max_ratio: 1.0}
inference: {scale: null}
batch: 4
log_every: 2
checkpoint_every: 2
"""


def small_place(factory: pytest.TempPathFactory) -> Iterator[Path]:
    """For a fixture: a folder with the protocol, where also the scenes go while it is in use."""
    place = factory.mktemp("segmentation")
    (place / "tiny.yaml").write_text(PROTOCOL)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SSL_TRANSFER_CACHE", str(place / "cache"))
        patched.setenv("CUDA_VISIBLE_DEVICES", "")
        yield place


def arguments(place: Path, out: Path, *more: str, ckpt: str = BACKBONE) -> list[str]:
    return ["--ckpt", ckpt, "--config", str(place / "tiny.yaml"), "--workers", "0", "--device", "cpu",
            "--out", str(out), *more]  # fmt: skip


def run(*given: str) -> str:
    """Runs the entry point in this process; what it prints."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stdout(printed):
        patched.setattr(sys, "argv", ["segment.py", *given])
        main()
    return printed.getvalue()


def result(out: Path) -> dict[str, Any]:
    return json.loads((out / "result.json").read_text())


def steps(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def scenes(place: Path, *overrides: str) -> Path:
    """The scenes of the protocol, in ADE20K's layout."""
    return find_root(load_config(SegmentConfig, place / "tiny.yaml", overrides).data)


def own_ade20k(place: Path, root: Path) -> list[str]:
    """A copy of the scenes at `root`, and the arguments with which it is a user's own."""
    shutil.copytree(scenes(place), root)
    (root / "scenes.json").unlink()
    return ["data.layout=ade20k", "--data", str(root)]


def trained(out: Path, ckpt: str = BACKBONE, arch: str | None = None) -> Any:
    """The model that a run has left in its folder."""
    from converters.engines.openmmlab import import_mmseg

    import_mmseg()
    from evaluate.segmentation.engine.engine_settings import engine_settings
    from evaluate.segmentation.model.segmentor import build_segmentor

    config = load_config(SegmentConfig, out / "config.yaml")
    alone = RunContext(Processes(0, 1, torch.device("cpu")), workers=0, seed=0)
    backbone = open_backbone(ckpt, arch=arch)
    names = tuple(map(str, range(config.data.classes)))
    settings = engine_settings(config, backbone, Path(), names, alone, out)
    model, _ = build_segmentor(config, settings["model"], backbone, alone)
    kept = torch.load(out / "segmentor.pth", weights_only=True)
    model.load_state_dict(kept["state_dict"], strict=True)
    return model.eval()


def _logits(model: Any, image: torch.Tensor, window: int | None, stride: int) -> torch.Tensor:
    """[1, 3, H, W] -> [1, classes, H, W]: at once, or the mean over windows, the last ones moved back to the edge."""
    if window is None:
        return model.encode_decode(image, [{"img_shape": image.shape[2:]}])
    total, count = torch.zeros(1, model.num_classes, *image.shape[2:]), torch.zeros(image.shape[2:])
    tops, lefts = ([min(at, side - window) for at in range(0, max(side - window, 0) + stride, stride)
                    if at - stride + window < side] for side in image.shape[2:])  # fmt: skip
    for top in tops:
        for left in lefts:
            part = (..., slice(top, top + window), slice(left, left + window))
            total[part] += model.encode_decode(image[part], [{"img_shape": (window, window)}])
            count[part] += 1
    return total / count


def confusion(
    model: Any, pairs: Sequence[tuple[Path, Path]], classes: int, *, reduce_zero_label: bool, window: int | None = None,
    stride: int = 0, statistics: Sequence[Sequence[float]] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
) -> np.ndarray[Any, Any]:  # fmt: skip
    """scikit-learn's matrix over the pixels that have a label, from files, mean and deviation, and the model."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in statistics)
    truths, predictions = [], []
    for image, label in pairs:
        pixels = torch.tensor(np.array(PIL.Image.open(image).convert("RGB"))).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            predicted = _logits(model, (pixels - mean) / std, window, stride).argmax(1)[0].numpy()
        truth = np.array(PIL.Image.open(label)).astype(int)
        counted = (truth != 255) & ((truth != 0) | (not reduce_zero_label))
        truths.append(truth[counted] - reduce_zero_label)
        predictions.append(predicted[counted])
    return confusion_matrix(np.concatenate(truths), np.concatenate(predictions), labels=range(classes))


def equal_scores(metrics: dict[str, Any], matrix: np.ndarray[Any, Any]) -> None:
    """Asserts that the run's scores are those of the matrix."""
    right, true, union = matrix.diagonal(), matrix.sum(1), matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    for number, iou in enumerate(metrics["IoU"].values()):
        assert (iou is None) == (union[number] == 0)
        if iou is not None:
            assert iou == pytest.approx(100 * right[number] / union[number], abs=1e-9)
    assert metrics["mIoU"] == pytest.approx(100 * np.mean(right[union > 0] / union[union > 0]), abs=1e-9)
    assert metrics["mAcc"] == pytest.approx(100 * np.mean(right[true > 0] / true[true > 0]), abs=1e-9)
    assert metrics["aAcc"] == pytest.approx(100 * right.sum() / matrix.sum(), abs=1e-9)
