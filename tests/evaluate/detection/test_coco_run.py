"""evaluate/coco.py as a user runs it: results, pictures, designs, precision, seeds, a changed protocol."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from core.backbones import BackboneConfig, build_backbone
from core.checkpoints import read_tensors
from tests.evaluate.detection.test_voc import write_voc
from tests.evaluate.detection.tiny_detection import arguments, make_place, result, run, steps, stopped


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("detection"))


def test_a_run_reports_all_and_a_finished_one_is_only_measured_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, *arguments(place, tmp_path, "--draw", "3", "--seed", "4"))
    printed = capsys.readouterr().out
    for line in (
        "protocol  tiny",
        "loaded    126 matched, 0 missing, 0 unexpected, 0 mis-shaped",
        "norms: backbone BN, pyramid none, heads none",
        "6 steps of 4 images, lr 0.02",
        "step 6/6  loss ",
        "2 batches",
    ):
        assert line in printed
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    first = result(tmp_path)
    assert (first["protocol"], first["seed"], first["backbone"]) == (
        "tiny",
        4,
        "resnet18(channels=[8, 16, 24, 32])",
    )
    metrics = first["metrics"]
    assert {"box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75"} <= metrics.keys()
    assert (first["data"]["train"]["images"], first["data"]["val"]["images"]) == (12, 5)
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert len(pictures) == 3
    with PIL.Image.open(pictures[0]) as picture:
        assert picture.size == (2 * 320 + 8, 320)  # 64 pixels five times enlarged, twice
    run(monkeypatch, *arguments(place, tmp_path, "--seed", "4"))
    assert "step 6 of 6" in capsys.readouterr().out
    assert result(tmp_path)["metrics"] == metrics
    assert result(tmp_path)["wall_seconds"] > read_tensors(tmp_path / "detector.pt")["seconds"] > 0
    run(monkeypatch, *arguments(place, tmp_path, "--seed", "4", "--restart"))
    printed = capsys.readouterr().out
    assert "resumes" not in printed
    assert "step 1/6" in printed
    assert result(tmp_path)["metrics"] == metrics


@pytest.mark.parametrize("design", ["vit_fpn", "vit_simple"])
def test_a_vit_is_trained_under_jitter_with_layer_norms_and_layer_decay(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, design: str
) -> None:
    run(monkeypatch, *arguments(
        place, tmp_path, f"detector.design={design}", "detector.norm=LN", "detector.pyramid_norm=LN",
        "detector.head_norm=LN", "detector.box_convs=2", "detector.rpn_convs=2", "detector.taps=[0,1,1,2]",
        "detector.drop_path=0.1", "data.large_scale_jitter=96", "solver.optimiser=adamw", "solver.layer_decay=0.7",
        "solver.lr=0.0005", ckpt="timm:vit_tiny_patch16_224(depth=3, img_size=64)",
    ))  # fmt: skip
    state = read_tensors(tmp_path / "detector.pt")["model"]
    before = build_backbone(BackboneConfig("vit_tiny_patch16_224", {"depth": 3, "img_size": 64})).state_dict()
    assert {f"backbone.bottom_up.vit.{name}" for name in before} <= state.keys()
    assert state["roi_heads.box_head.conv1.norm.weight"].shape == (16,)
    assert state["roi_heads.mask_head.mask_fcn1.norm.weight"].shape == (16,)
    assert state["proposal_generator.rpn_head.conv.conv1.weight"].shape == (16, 16, 3, 3)
    assert result(tmp_path)["metrics"]["mask_ap"] is not None
    # The rate of what has the whole one: that of the first group, the patches', is 0.7⁴ of it.
    rates = [json.loads(line)["lr"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([5e-7, 2.5025e-4, 5e-4, 5e-4, 5e-4, 5e-5])


def test_faster_rcnn_c4_on_voc(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_voc(tmp_path / "voc")
    run(monkeypatch, *arguments(
        place, tmp_path / "out", "--data", f"voc:{root}", "detector.design=resnet_c4", "detector.extra_norm=true",
        "detector.masks=false", "detector.rois=4", "detector.proposals=[12,12,6,6]",
        "solver.precise_bn=0", "solver.batch=2", "solver.iterations=2", "solver.steps=[1]",
        ckpt="timm:resnet50(zero_init_last=false)",
    ))  # fmt: skip
    document = result(tmp_path / "out")
    assert document["metrics"].keys() == {"box_ap", "box_ap50", "box_ap75"}
    assert (document["data"]["train"]["images"], document["data"]["val"]["images"]) == (2, 1)


@pytest.mark.gpu
def test_mixed_precision_on_a_gpu(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, *arguments(place, tmp_path, "--device", "cuda", "solver.amp=true"))
    state = read_tensors(tmp_path / "detector.pt")
    assert state["trainer"]["grad_scaler"]["scale"] > 0
    assert result(tmp_path)["metrics"]["box_ap"] is not None


def test_mixed_precision_as_far_as_a_cpu_goes(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Detectron2's trainer for CUDA with the CPU's autocast (bfloat16) and gradient scaler, stopped and resumed."""
    from evaluate.detection.training import loop

    seen: set[torch.dtype] = set()
    linear = torch.nn.functional.linear

    def seen_linear(*given: Any) -> torch.Tensor:
        answer = linear(*given)
        seen.add(answer.dtype)
        return answer

    monkeypatch.setattr(loop, "check_hardware", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda.amp, "autocast", lambda: torch.autocast("cpu", torch.bfloat16))
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", lambda: torch.amp.GradScaler("cpu", init_scale=8.0))
    monkeypatch.setattr(torch.nn.functional, "linear", seen_linear)
    given = arguments(place, tmp_path, "solver.amp=true", "solver.iterations=4", "solver.steps=[3]")
    save = loop.Training.save

    def save_or_stop(training: loop.Training, step: int, *rest: Any) -> None:
        save(training, step, *rest)
        if step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.Training, "save", save_or_stop)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, *given)
    monkeypatch.setattr(loop.Training, "save", save)
    saved = read_tensors(tmp_path / "detector.pt")
    assert saved["trainer"]["grad_scaler"]["scale"] == 8.0
    assert {tensor.dtype for tensor in saved["model"].values() if tensor.is_floating_point()} == {torch.float32}
    assert torch.bfloat16 in seen
    run(monkeypatch, *given)
    printed = capsys.readouterr().out
    assert "mixed precision" in printed
    assert "step 2 of 4" in printed
    assert steps(tmp_path) == [1, 2, 3, 4]
    assert read_tensors(tmp_path / "detector.pt")["trainer"]["grad_scaler"]["_growth_tracker"] == 4


def test_one_seed_one_result_however_the_baseline_is_asked_for(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = []
    ckpt = str(place / "backbone.safetensors")
    for name, given in (("a", [f"random:{ckpt}"]), ("b", [ckpt, "--init", "random"])):
        run(monkeypatch, *arguments(place, tmp_path / name, *given[1:], ckpt=given[0]))
        states.append(read_tensors(tmp_path / name / "detector.pt")["model"])
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert [result(tmp_path / name)["checkpoint"]["family"] for name in "ab"] == ["random", "random"]
    assert result(tmp_path / "a")["metrics"] == result(tmp_path / "b")["metrics"]


def test_a_changed_protocol_says_so_and_another_runs_folder_is_not_touched(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, *arguments(place, tmp_path, "solver.processes=2", "solver.schedule=0.5"))
    printed = capsys.readouterr().out
    assert "tiny (modified: solver.global_batch=2, solver.schedule=0.5)" in printed
    assert "6 steps of 2 images, lr 0.01" in printed
    document = result(tmp_path)
    scaled = document["settings"]["scaling"]
    assert all(part in scaled for part in ("4 -> 2 (1 process ", "× 0.5 = 0.01", "÷ 0.5 = 6 ")), scaled
    assert f"{scaled}\n" in printed
    assert document["protocol"] == "tiny (modified: solver.global_batch=2, solver.schedule=0.5)"
    assert document["settings"]["processes"] == 1
    before = (tmp_path / "detector.pt").read_bytes()
    (tmp_path / "result.json").unlink()
    assert "(different: protocol)" in stopped(monkeypatch, capsys, *arguments(place, tmp_path))
    assert (tmp_path / "detector.pt").read_bytes() == before
