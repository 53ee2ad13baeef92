"""Runs of evaluate/coco.py with timm's own networks: resumed after a kill, and in two processes, as with ResNets."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from converters.open import open_backbone
from core.checkpoints import read_tensors
from evaluate.detection.training import loop
from tests.evaluate.detection.test_coco_wrapped import DINOV3, SWIN
from tests.evaluate.detection.tiny_detection import arguments, make_place, result, run, steps
from tests.torchrun import torchrun

STAGES = ("detector.design=stages_fpn", "detector.norm=LN", "solver.precise_bn=0")
PATCHES = ("detector.design=vit_simple", "detector.norm=LN", "detector.taps=[0,1,2,3]", "solver.precise_bn=0")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("wrapped_runs"))


@pytest.mark.parametrize(("ckpt", "design", "inside"), [(SWIN, STAGES, "network"), (DINOV3, PATCHES, "vit")])
def test_a_killed_run_resumes_where_it_was(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ckpt: str, design: tuple[str, ...], inside: str
) -> None:
    given = arguments(place, tmp_path, *design, "solver.optimiser=adamw", "solver.lr=0.001", ckpt=ckpt)
    save = loop.Training.save

    def save_or_stop(training: loop.Training, step: int, *rest: Any) -> None:
        save(training, step, *rest)
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "save", save_or_stop)
        with pytest.raises(KeyboardInterrupt):
            run(patch, *given)
    saved = read_tensors(tmp_path / "detector.pt")
    assert (saved["step"], saved["scheduler"]["last_epoch"]) == (4, 4)
    loaded: list[dict[str, torch.Tensor]] = []
    train = loop.train

    def train_and_look(cfg: Any, config: Any, detector: Any, *rest: Any) -> Any:
        forward = detector.forward

        def first(*images: Any, **more: Any) -> Any:
            if not loaded:
                loaded.append({name: tensor.clone() for name, tensor in detector.state_dict().items()})
            return forward(*images, **more)

        monkeypatch.setattr(detector, "forward", first)
        return train(cfg, config, detector, *rest)

    monkeypatch.setattr(loop, "train", train_and_look)
    run(monkeypatch, *given)
    assert loaded[0].keys() == saved["model"].keys()
    assert all(torch.equal(tensor, saved["model"][name]) for name, tensor in loaded[0].items())
    start = open_backbone(ckpt).model.state_dict()
    prefix = f"backbone.bottom_up.{inside}."
    assert any(not torch.equal(saved["model"][prefix + name], tensor) for name, tensor in start.items())
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    rates = [json.loads(line)["lr"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([1e-6, 0.0005005, 0.001, 0.001, 0.001, 0.0001])


@pytest.mark.parametrize(("ckpt", "design"), [(SWIN, STAGES), (DINOV3, PATCHES)])
def test_two_processes_end_equal_and_measure_as_one(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ckpt: str, design: tuple[str, ...]
) -> None:
    digests = tmp_path / "digests"
    digests.mkdir()
    given = arguments(place, tmp_path / "out", *design, ckpt=ckpt)
    both = torchrun(Path(__file__).with_name("coco_of_a_rank.py"), str(digests), *given)
    assert both.returncode == 0, both.stderr[-3000:]
    assert (digests / "0").read_text() == (digests / "1").read_text()
    assert steps(tmp_path / "out") == [1, 2, 3, 4, 5, 6]
    together = result(tmp_path / "out")["metrics"]
    run(monkeypatch, *given)  # trained already: measured again, in one process
    assert result(tmp_path / "out")["metrics"] == together
