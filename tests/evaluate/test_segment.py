"""evaluate/segment.py as a user runs it: alone, in two processes, killed and resumed, and with what can go wrong."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from core.errors import run_entry_point
from evaluate.segment import main
from tests.torchrun import ROOT, python, torchrun

pytest.importorskip("mmseg", reason="needs MMSegmentation", exc_type=ImportError)

SCRIPT = ROOT / "evaluate" / "segment.py"
BACKBONE = "timm:resnet18(channels=[8,16,32,64])"
PROTOCOL = """
name: tiny
data: {layout: scenes, classes: 9, scenes: {size: 32, radius: [0.3, 0.4], train: 12, test: 7}}
network: {backbone: resnet18}
head: {kind: fcn, channels: 8, convs: 1, every_map: true, auxiliary: 0.0}
optim: {name: sgd, lr: 0.05, weight_decay: 0.0}
schedule: {iterations: 6, warmup: 2, power: 0.9}
crop: {size: 32, scale: [32, 32], ratio: [1.0, 1.0], most_of_one_class: 1.0}
inference: {scale: null}
batch: 4
log_every: 2
checkpoint_every: 2
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def given(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a run of seconds."""
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(cache))
    (tmp_path / "tiny.yaml").write_text(PROTOCOL)
    return ["--ckpt", BACKBONE, "--config", str(tmp_path / "tiny.yaml"), "--workers", "0", "--device", "cpu",
            "--out", str(tmp_path / "out")]  # fmt: skip


def _result(out: Path) -> dict[str, Any]:
    return json.loads((out / "result.json").read_text())


def test_alone_and_in_two_processes(given: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = python(str(SCRIPT), *given, "--draw", "2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "protocol  tiny"
    assert lines[3].startswith("majority  background everywhere: mIoU ")
    assert "batch norms plain: SyncBN needs several processes" in lines[4]
    assert "backbone: 126 of 126 tensors loaded" in lines
    assert any(line.startswith("iteration 6/6  loss ") and line.endswith("ETA 0 s") for line in lines)
    result = _result(out)
    metrics = result["metrics"]
    assert {"mIoU", "mAcc", "aAcc", "IoU", "majority_class", "majority_mIoU", "majority_aAcc"} == metrics.keys()
    assert list(metrics["IoU"])[:2] == ["background", "disc"]
    assert len(metrics["IoU"]) == 9
    assert result["data"]["val"]["images"] == 7
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [2, 4, 6]
    assert sorted(file.name for file in out.iterdir()) == [
        "config.yaml", "metrics.jsonl", "predictions.png", "result.json", "segmentor.pth",
    ]  # fmt: skip
    kept = torch.load(out / "segmentor.pth", weights_only=True)
    assert "decode_head.conv_seg.weight" in kept["state_dict"]
    with PIL.Image.open(out / "predictions.png") as picture:
        assert picture.size == (3 * 160 + 4 * 4, 18 + 2 * 164)

    two = torchrun(SCRIPT, *given, "--out", str(tmp_path / "two"))
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("protocol  tiny") == 1
    assert "batch norms synchronised" in two.stdout
    assert "2 processes" in two.stdout
    found = _result(tmp_path / "two")
    # All seven test images are counted once, though the ranks are padded to eight.
    assert found["metrics"]["majority_mIoU"] == metrics["majority_mIoU"]
    assert found["data"] == result["data"]
    assert abs(found["metrics"]["aAcc"] - metrics["aAcc"]) < 40


@pytest.mark.slow
def test_killed_and_resumed(given: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    given += ["schedule.iterations=60"]
    run = subprocess.Popen(
        [sys.executable, str(SCRIPT), *given],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    pointer, deadline = out / "engine" / "last_checkpoint", time.monotonic() + 120
    while not pointer.is_file() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert pointer.is_file()
    newest = out / "engine" / Path(pointer.read_text()).name
    torch.load(newest, weights_only=True)  # nothing but tensors and plain values

    again = python(str(SCRIPT), *given)
    assert again.returncode == 2
    assert "holds an unfinished run; go on with --resume" in again.stderr
    other = python(str(SCRIPT), *given, "--resume", "--seed", "1")
    assert other.returncode == 2
    assert "holds another run (different: backbone, seed)" in other.stderr

    resumed = python(str(SCRIPT), *given, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumes from {newest}" in resumed.stdout
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(2, 61, 2))
    first = next(line for line in resumed.stdout.splitlines() if line.startswith("iteration"))
    assert first.split()[1] != "2/60"
    assert not (out / "engine").exists()


class _Attack:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)


def test_a_crafted_checkpoint_runs_no_code(given: list[str], tmp_path: Path) -> None:
    out, mark = tmp_path / "out", tmp_path / "ran"
    work = out / "engine"
    work.mkdir(parents=True)
    torch.save({"state_dict": {}, "optimizer": {}, "meta": _Attack(mark)}, work / "iter_2.pth")
    (work / "last_checkpoint").write_text("iter_2.pth")
    started = python(str(SCRIPT), *given, "--resume")
    assert started.returncode == 2
    assert "identity.json can't be read" in started.stderr
    # Even where the rest of the run's folder is right.
    shutil.rmtree(work)
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import evaluate.segmentation.run as run\n"
        "prepare = run.prepare_folder\n"
        "def spoiled(out, identity, resume):\n"
        "    prepare(out, identity, resume)\n"
        "    import torch\n"
        "    from tests.evaluate.test_segment import _Attack\n"
        f"    torch.save({{'state_dict': {{}}, 'optimizer': {{}}, 'meta': _Attack({str(mark)!r})}}, "
        "out / 'engine' / 'iter_2.pth')\n"
        "    (out / 'engine' / 'last_checkpoint').write_text('iter_2.pth')\n"
        "    return {}\n"
        "run.prepare_folder = spoiled\n"
        "from core.errors import run_entry_point\n"
        "from evaluate.segment import main\n"
        f"sys.argv = ['segment.py', *{given!r}, '--resume']\n"
        "run_entry_point(main)\n"
    )
    # Once caught before the engine sees it, …
    caught = python("-c", code.replace("return {}", "return prepare(out, identity, True)"))
    assert caught.returncode == 2, caught.stderr
    assert "iter_2.pth holds more than tensors and plain values" in caught.stderr
    assert not mark.exists()
    # … and once handed to the engine itself, which refuses it too.
    shutil.rmtree(work)
    handed = python("-c", code.replace("return {}", "return str(out / 'engine' / 'iter_2.pth')"))
    assert handed.returncode not in (0, 2)
    assert "UnpicklingError" in handed.stderr
    assert not mark.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ckpt", "pixels"], "pixels is no network"),
        (["network.backbone=resnet50"], "tiny measures a resnet50"),
        (["--data", "/nowhere"], "scenes are built in, so data.root=/nowhere can't hold"),
        (["data.layout=ade20k", "--data", "/nowhere"], "no folder /nowhere; pass --data /path/to/ADEChallengeData2016"),
        (["data.classes=8"], "classes must be 9 for the layout scenes, not 8"),
        (["--seed", "-1"], "--seed must be 0 or more, not -1"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    given: list[str],
    more: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "argv", ["segment.py", *given, *more])
    with pytest.raises(SystemExit) as stopped:
        run_entry_point(main)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1


def test_a_diverged_run_stops_before_its_checkpoint(given: list[str], tmp_path: Path) -> None:
    done = python(str(SCRIPT), *given, "optim.lr=1e30", "schedule.warmup=0")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: the loss is not finite at iteration 2; the last checkpoint is intact")
    assert done.stderr.count("\n") == 1
    assert not list((tmp_path / "out/engine").glob("*.pth"))


def test_a_bad_label_met_in_training_is_one_sentence_too(given: list[str], tmp_path: Path, cache: Path) -> None:
    import numpy as np

    assert python(str(SCRIPT), *given).returncode == 0
    root = tmp_path / "ade"
    shutil.copytree(next(cache.glob("scenes-ade20k-*")), root)
    (root / "scenes.json").unlink()
    config = tmp_path / "tiny.yaml"
    config.write_text(PROTOCOL.replace("layout: scenes", f"layout: ade20k, root: {root}"))
    label = root / "annotations/training/ADE_train_00000003.png"
    PIL.Image.fromarray(np.full((32, 32), 77, np.uint8)).save(label)
    given = [*given, "--out", str(tmp_path / "bad"), "--workers", "1"]
    early = python(str(SCRIPT), *given)
    assert early.returncode == 2
    assert early.stderr == (
        f"error: {label} holds the label 77, but 9 classes are 1 … 9 (0 and 255 for no label); mend the labels or set "
        f"data.classes\n"
    )
    # Where the check at the start misses it, the loader process meets it.
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import evaluate.segment as segment\n"
        "import evaluate.segmentation.labels as labels\n"
        "labels.spread = lambda files, most: files[:1]\n"
        f"sys.argv = ['segment.py', *{given!r}]\n"
        "segment.run_entry_point(segment.main)\n"
    )
    late = python("-c", code)
    assert late.returncode == 2, late.stderr
    assert late.stderr == early.stderr


def test_help_is_quick() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = python(str(SCRIPT), "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert "example: python evaluate/segment.py --ckpt" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_bfloat16_on_the_cpu(given: list[str], tmp_path: Path) -> None:
    done = python(str(SCRIPT), *given, "precision=bfloat16", "--batch", "2")
    assert done.returncode == 0, done.stderr
    result = _result(tmp_path / "out")
    assert result["protocol"].startswith("tiny (modified: ")
    assert 'precision="bfloat16"' in result["protocol"] or "precision=bfloat16" in result["protocol"]
    assert result["settings"]["schedule"]["iterations"] == 12
    assert result["settings"]["scaling"].startswith("batch 4 -> 2: learning rate × 0.5 = 0.025, iterations ÷ 0.5 = 12")
    assert "scaled    batch 4 -> 2" in done.stdout
