"""evaluate/coco.py as a user runs it: results, pictures, a kill and a resume, two processes, mistakes."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from core import detectron2_mends

detectron2_mends.announce()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)

from core.backbones import BackboneConfig, build_backbone
from core.checkpoints import export_backbone, read_tensors
from core.data.scene_folders import write_coco
from core.data.scenes import ScenesConfig
from core.errors import run_entry_point
from evaluate.coco import main
from tests.evaluate.test_voc import write_voc
from tests.torchrun import ROOT, python, torchrun

SCRIPT = ROOT / "evaluate" / "coco.py"
PROTOCOL = """
name: tiny
data: {source: 'coco:SCENES', short_sides: [64], longest: 64, test_short_side: 64, mask_format: bitmask}
detector: {pyramid_width: 16, box_width: 32, mask_convs: 1, mask_width: 16, anchors: [8, 16, 24, 32, 48],
           proposals: [50, 50, 30, 30], rois: 16}
solver: {lr: 0.02, batch: 4, iterations: 6, steps: [5], warmup: 2, checkpoint_every: 2, log_every: 1, precise_bn: 2}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scenes in COCO's layout, a protocol for them and a backbone."""
    root = tmp_path_factory.mktemp("detection")
    config = ScenesConfig(size=64, objects=(1, 3), radius=(0.15, 0.35), pretrain=1, train=12, test=5)
    write_coco(root / "scenes", config)
    (root / "tiny.yaml").write_text(PROTOCOL.replace("SCENES", str(root / "scenes")))
    torch.manual_seed(0)
    backbone = BackboneConfig("resnet18", {"channels": [8, 16, 24, 32]})
    export_backbone(root / "backbone.safetensors", build_backbone(backbone), backbone, {"method": "none"})
    return root


def arguments(place: Path, out: Path, *more: str, ckpt: str = "") -> list[str]:
    given = ckpt or str(place / "backbone.safetensors")
    return ["--ckpt", given, "--config", str(place / "tiny.yaml"), "--out", str(out), "--workers", "0",
            "--device", "cpu", *more]  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, *given: str) -> None:
    monkeypatch.setattr(sys, "argv", ["coco.py", *given])
    main()


def result(out: Path) -> dict[str, Any]:
    return json.loads((out / "result.json").read_text())


def steps(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_tells_all_and_a_finished_one_is_only_measured_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, *arguments(place, tmp_path, "--draw", "3", "--seed", "4"))
    said = capsys.readouterr().out
    for line in (
        "protocol  tiny",
        "loaded    126 matched, 0 missing, 0 unexpected, 0 mis-shaped",
        "norms: backbone BN, pyramid none, heads none (SyncBN is plain BN on one process)",
        "schedule  6 steps of 4 images, lr 0.02, falls after 5, warm-up 2; sgd",
        "step 6/6  loss ",
        "batch norm statistics over 2 batches",
    ):
        assert line in said
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
    assert "resumes  after step 6 of 6" in capsys.readouterr().out
    assert result(tmp_path)["metrics"] == metrics
    assert result(tmp_path)["wall_seconds"] > read_tensors(tmp_path / "detector.pt")["seconds"] > 0
    run(monkeypatch, *arguments(place, tmp_path, "--seed", "4", "--restart"))
    said = capsys.readouterr().out
    assert "resumes" not in said
    assert "step 1/6" in said
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


def test_faster_rcnn_c4_on_voc(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_voc(tmp_path / "voc")
    run(monkeypatch, *arguments(
        place, tmp_path / "out", "--data", f"voc:{root}", "detector.design=resnet_c4", "detector.extra_norm=true",
        "detector.masks=false", "solver.batch=2", "solver.iterations=2", "solver.steps=[1]", ckpt="timm:resnet50",
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


def test_one_seed_one_result(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for name in ("a", "b"):
        run(monkeypatch, *arguments(place, tmp_path / name, ckpt=f"random:{place / 'backbone.safetensors'}"))
        states.append(read_tensors(tmp_path / name / "detector.pt")["model"])
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert result(tmp_path / "a")["checkpoint"]["family"] == "random"


def test_a_changed_protocol_says_so_and_another_runs_folder_is_not_touched(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, *arguments(place, tmp_path, "solver.processes=2", "solver.schedule=0.5"))
    said = capsys.readouterr().out
    assert "tiny (modified: solver.global_batch=2, solver.schedule=0.5)" in said
    assert "6 steps of 2 images, lr 0.01" in said
    scaled = (
        "batch 4 -> 2 (1 process of the 2 that the protocol is for): learning rate × 0.5 = 0.01, iterations ÷ 0.5 = 6 "
        "(warm-up 4), as many images as before"
    )
    assert f"scaled    {scaled}\n" in said
    document = result(tmp_path)
    assert document["protocol"] == "tiny (modified: solver.global_batch=2, solver.schedule=0.5)"
    assert (document["settings"]["scaling"], document["settings"]["processes"]) == (scaled, 1)
    before = (tmp_path / "detector.pt").read_bytes()
    (tmp_path / "result.json").unlink()
    monkeypatch.setattr(sys, "argv", ["coco.py", *arguments(place, tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        run_entry_point(main)
    assert stopped.value.code == 2
    assert "belongs to another run (different: protocol)" in capsys.readouterr().err
    assert (tmp_path / "detector.pt").read_bytes() == before


@pytest.mark.slow
def test_a_killed_run_goes_on(place: Path, tmp_path: Path) -> None:
    given = arguments(place, tmp_path, "solver.iterations=100", "solver.steps=[]")
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), *given], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    state = tmp_path / "detector.pt"
    for _ in range(2400):
        if state.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = read_tensors(state)["step"]
    assert done in range(2, 100, 2)
    assert not (tmp_path / "result.json").exists()
    finished = python(str(SCRIPT), *given)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert f"resumes  after step {done} of 100" in finished.stdout
    assert read_tensors(state)["step"] == 100
    assert steps(tmp_path) == list(range(1, 101))
    assert result(tmp_path)["metrics"]["box_ap"] is not None


def test_a_resumed_run_sees_the_images_that_were_to_come(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped by a full disk after four of six steps; optimiser, schedule and order go on where they were."""
    from evaluate.detection import training

    save = training._save

    def save_or_stop(folder: Path, identity: Any, step: int, *rest: Any) -> None:
        save(folder, identity, step, *rest)
        if step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "_save", save_or_stop)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, *arguments(place, tmp_path))
    saved = read_tensors(tmp_path / "detector.pt")
    assert (saved["step"], saved["scheduler"]["last_epoch"]) == (4, 4)
    monkeypatch.setattr(training, "_save", save)
    run(monkeypatch, *arguments(place, tmp_path))
    assert "resumes  after step 4 of 6" in capsys.readouterr().out
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    rates = [json.loads(line)["lr"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([0.00002, 0.01001, 0.02, 0.02, 0.02, 0.002])
    from evaluate.detection.loaders import _Onward

    whole, onward = iter(_Onward(12, 0, 0)), iter(_Onward(12, 0, 16))
    assert [next(whole) for _ in range(40)][16:] == [next(onward) for _ in range(24)]


def test_precise_statistics_are_averages_over_batches() -> None:
    from types import SimpleNamespace

    from evaluate.detection.training import _precise_statistics

    batches = list(torch.randn(5, 8, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 + 1)
    norm = torch.nn.BatchNorm2d(3)
    stream = iter(batches)
    _precise_statistics(norm, SimpleNamespace(_data_loader_iter=stream), 4, main=False)
    over = (0, 2, 3)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, torch.stack([b.mean(over) for b in batches[:4]]).mean(0))
    assert torch.equal(next(stream), batches[4])  # no more than was asked for is taken
    assert norm.momentum == 0.1


@pytest.mark.slow
def test_two_processes_end_equal_and_measure_as_one(place: Path, tmp_path: Path) -> None:
    digests, out = tmp_path / "digests", tmp_path / "out"
    digests.mkdir()
    for norms in ((), ("detector.pyramid_norm=SyncBN", "detector.head_norm=SyncBN", "detector.box_convs=1")):
        given = arguments(place, out / str(len(norms)), *norms)
        both = torchrun(Path(__file__).with_name("coco_of_a_rank.py"), str(digests), *given)
        assert both.returncode == 0, both.stderr[-3000:]
        assert "norms: backbone naiveSyncBN" in both.stdout
        assert (digests / "0").read_text() == (digests / "1").read_text()
        together = result(out / str(len(norms)))["metrics"]
        alone = python(str(SCRIPT), *given)
        assert alone.returncode == 0, alone.stderr[-3000:]
        assert "resumes  after step 6 of 6" in alone.stdout
        assert result(out / str(len(norms)))["metrics"] == together


# Mistakes


def stopped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *given: str) -> str:
    """The one line that a run ends with."""
    monkeypatch.setattr(sys, "argv", ["coco.py", *given])
    with pytest.raises(SystemExit) as exit_:
        run_entry_point(main)
    assert exit_.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_checkpoints_that_do_not_do(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.pkl"
    broken.write_bytes(b"\x80\x04nonsense")
    cases = {
        str(broken): "broken.pkl is not a readable Detectron2 file",
        "timm:vit_tiny_patch16_224": "tiny is a protocol for ResNets",
        "pixels": "pixels is no network",
        str(tmp_path / "none"): "no checkpoint",
    }
    for ckpt, message in cases.items():
        assert message in stopped(monkeypatch, capsys, *arguments(place, tmp_path / "out", ckpt=ckpt))
    given = arguments(place, tmp_path / "out", "--arch", "resnet50")
    assert "--arch says resnet50" in stopped(monkeypatch, capsys, *given)
    assert not (tmp_path / "out").exists()


def test_settings_that_do_not_do(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*more: str) -> str:
        return stopped(monkeypatch, capsys, *arguments(place, tmp_path / "out", *more))

    assert "needs a GPU" in said("solver.amp=true")
    assert "--data coco:ROOT wants" in said("--data", f"coco:{tmp_path}")
    assert "--draw must be 0 or more" in said("--draw", "-1")
    assert "set data.mask_format=bitmask" in said("data.mask_format=polygon")


def test_broken_images_are_replaced_and_named_until_they_are_too_many(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ScenesConfig(size=64, objects=(1, 3), radius=(0.15, 0.35), pretrain=1, train=12, test=5)
    root = write_coco(tmp_path / "scenes", config)
    victims = [root / "train2017" / "000000000003.png", root / "val2017" / "000000000014.png"]
    for victim in victims:
        victim.write_bytes(victim.read_bytes()[:500])
    given = arguments(place, tmp_path / "out", "--data", f"coco:{root}", "data.broken_share=0.25")
    run(monkeypatch, *given)
    said = capsys.readouterr().out
    assert f"1 left out of training: {victims[0]}: " in said
    assert f"1 left out of test: {victims[1]}: " in said
    document = result(tmp_path / "out")
    assert str(victims[0]) in document["data"]["train"]["broken"][0]
    assert str(victims[1]) in document["data"]["val"]["broken"][0]
    error = stopped(monkeypatch, capsys, *arguments(place, tmp_path / "strict", "--data", f"coco:{root}"))
    assert "1 of 12 images are broken, more than the allowed share 0.001" in error


def test_a_loss_that_is_not_finite_stops_the_run(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(place, tmp_path, "solver.lr=1e18", "solver.warmup=0", "solver.iterations=30", "solver.steps=[]")
    assert "is not finite" in stopped(monkeypatch, capsys, *given)
    assert not (tmp_path / "result.json").exists()


def test_help_comes_quickly_and_without_torch() -> None:
    code = (
        f"import runpy, sys; sys.argv = ['coco.py', '--help']\n"
        f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        f"except SystemExit: print('torch' in sys.modules)"
    )
    shown = python("-c", code)
    assert shown.stdout.endswith("False\n")
    assert "A killed run goes on when started again." in " ".join(shown.stdout.split())


def test_without_detectron2_the_way_to_install_it_is_told(place: Path, tmp_path: Path) -> None:
    code = (
        f"import runpy, sys; sys.modules['detectron2'] = None\n"
        f"sys.argv = {['coco.py', *arguments(place, tmp_path)]!r}\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    done = python("-c", code)
    assert done.returncode == 2
    assert "python evaluate/install_detectron2.py" in done.stderr
    assert len(done.stderr.splitlines()) == 1
