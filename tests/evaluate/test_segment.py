"""evaluate/segment.py as a user runs it: alone, in two processes, killed and resumed, and with what can go wrong."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.metrics import confusion_matrix

import evaluate.segmentation.run
from converters.open import open_backbone
from core.config import load_config
from core.distributed import Processes
from core.errors import UserError, run_entry_point
from evaluate.pictures import find_pictures
from evaluate.segment import main
from evaluate.segmentation.layouts import find_root, list_split
from evaluate.segmentation.protocol import SegmentConfig
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


def _scenes(given: list[str], *overrides: str) -> Path:
    """The scenes of the protocol, in ADE20K's layout."""
    return find_root(load_config(SegmentConfig, Path(given[given.index("--config") + 1]), overrides).data)


def _trained(out: Path, given: list[str]) -> Any:
    """The model that a run has left in its folder."""
    from converters.openmmlab import import_mmseg

    import_mmseg()
    from evaluate.segmentation.engine_settings import engine_settings
    from evaluate.segmentation.segmentor import build_segmentor

    config = load_config(SegmentConfig, out / "config.yaml")
    arch = given[given.index("--arch") + 1] if "--arch" in given else None
    backbone = open_backbone(given[given.index("--ckpt") + 1], arch=arch)
    alone = Processes(0, 1, torch.device("cpu"))
    names = tuple(map(str, range(config.data.classes)))
    settings = engine_settings(config, backbone, Path(), names, alone, 0, 0, out)
    model, _ = build_segmentor(config, settings["model"], backbone, alone, 0)
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


def _confusion(
    model: Any, pairs: list[tuple[Path, Path]], classes: int, *, zero_is_nothing: bool, window: int | None = None,
    stride: int = 0,
) -> np.ndarray[Any, Any]:  # fmt: skip
    """scikit-learn's matrix over the pixels that have a label, from files, ImageNet's mean and deviation, the model."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    truths, predictions = [], []
    for image, label in pairs:
        pixels = torch.tensor(np.array(PIL.Image.open(image).convert("RGB"))).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            predicted = _logits(model, (pixels - mean) / std, window, stride).argmax(1)[0].numpy()
        truth = np.array(PIL.Image.open(label)).astype(int)
        counted = (truth != 255) & ((truth != 0) | (not zero_is_nothing))
        truths.append(truth[counted] - zero_is_nothing)
        predictions.append(predicted[counted])
    return confusion_matrix(np.concatenate(truths), np.concatenate(predictions), labels=range(classes))


def _equal_scores(metrics: dict[str, Any], matrix: np.ndarray[Any, Any]) -> None:
    right, true, union = matrix.diagonal(), matrix.sum(1), matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    for number, iou in enumerate(metrics["IoU"].values()):
        assert (iou is None) == (union[number] == 0)
        if iou is not None:
            assert iou == pytest.approx(100 * right[number] / union[number], abs=1e-9)
    assert metrics["mIoU"] == pytest.approx(100 * np.mean(right[union > 0] / union[union > 0]), abs=1e-9)
    assert metrics["mAcc"] == pytest.approx(100 * np.mean(right[true > 0] / true[true > 0]), abs=1e-9)
    assert metrics["aAcc"] == pytest.approx(100 * right.sum() / matrix.sum(), abs=1e-9)


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
        "config.yaml", "metrics.jsonl", "pictures", "result.json", "segmentor.pth",
    ]  # fmt: skip
    kept = torch.load(out / "segmentor.pth", weights_only=True)
    assert "decode_head.conv_seg.weight" in kept["state_dict"]
    first, last = find_pictures(out)[0]
    assert (first.kind, last.kind) == ("label maps", "label maps")
    assert first.caption.startswith(f"{first.path.stem}: there background ")
    assert "; predicted " in first.caption
    with PIL.Image.open(first.path) as picture:
        assert (picture.width, picture.height >= 160 + 4 + 16) == (3 * 160 + 2 * 4, True)

    two = torchrun(SCRIPT, *given, "--out", str(tmp_path / "two"))
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("protocol  tiny") == 1
    assert "batch norms synchronised" in two.stdout
    assert "2 processes" in two.stdout
    found = _result(tmp_path / "two")
    assert found["metrics"]["majority_mIoU"] == metrics["majority_mIoU"]
    assert found["data"] == result["data"]
    # All seven test images are counted once, though the ranks are padded to eight.
    pairs = list_split(_scenes(given), "scenes", "val")
    assert len(pairs) == 7
    for folder, scored in ((out, metrics), (tmp_path / "two", found["metrics"])):
        model = _trained(folder, given)
        _equal_scores(scored, _confusion(model, pairs, 9, zero_is_nothing=True))
        padded = _confusion(model, [*pairs, pairs[0]], 9, zero_is_nothing=True)
        assert padded.diagonal().sum() / padded.sum() != pytest.approx(scored["aAcc"] / 100, abs=1e-9)


@pytest.mark.slow
def test_a_frozen_backbone_is_the_same_after_training_in_two_processes(given: list[str], tmp_path: Path) -> None:
    done = torchrun(SCRIPT, *given, "network.frozen=true")
    assert done.returncode == 0, done.stderr
    assert "backbone: 126 of 126 tensors loaded; frozen" in done.stdout
    kept = torch.load(tmp_path / "out/segmentor.pth", weights_only=True)["state_dict"]
    source = open_backbone(BACKBONE).model.state_dict()
    moved = [name for name, tensor in source.items() if not torch.equal(tensor, kept[f"backbone.{name}"])]
    assert not moved
    head = {name: tensor for name, tensor in kept.items() if name.startswith("decode_head.")}
    assert head["decode_head.convs.0.bn.num_batches_tracked"] == 6


def _blocks(rng: np.random.Generator, classes: int, height: int, width: int) -> tuple[Any, Any]:
    """An image of coloured rectangles with their classes, and a frame without a label around each."""
    labels = np.zeros((height, width), np.uint8)
    for _ in range(4):
        top, left = int(rng.integers(height - 12)), int(rng.integers(width - 12))
        labels[top : top + 12, left : left + 12] = 255
        labels[top + 1 : top + 11, left + 1 : left + 11] = rng.integers(1, classes)
    shown = np.where(labels == 255, 0, labels)
    return np.stack([shown * 12, 255 - shown * 12, 7 * shown], axis=2), labels


def _voc(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count, folder in (("train", 4, "SegmentationClass"), ("aug", 3, "SegmentationClassAug"),
                                 ("val", 3, "SegmentationClass")):  # fmt: skip
        names = [f"2007_{split}{number}" for number in range(count)]
        for number, name in enumerate(names):
            image, labels = _blocks(rng, 21, 40 + number, 52)
            for below in ("JPEGImages", folder, "ImageSets/Segmentation"):
                (root / below).mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(image).save(root / f"JPEGImages/{name}.jpg", quality=95)
            picture = PIL.Image.fromarray(labels).convert("P")
            picture.putpalette(bytes(rng.integers(0, 256, 768, dtype=np.uint8)))
            picture.save(root / folder / f"{name}.png")
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(names) + "\n")


def _cityscapes(root: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for number in range(count):
            image, labels = _blocks(rng, 19, 40, 72)
            stem = f"{split}/ulm/ulm_00000{number}_000019"
            for file, pixels in ((f"leftImg8bit/{stem}_leftImg8bit.png", image),
                                 (f"gtFine/{stem}_gtFine_labelTrainIds.png", labels)):  # fmt: skip
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                PIL.Image.fromarray(pixels).save(root / file)


@pytest.fixture
def run(given: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the entry point in this process."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def here(*more: str) -> None:
        monkeypatch.setattr(sys, "argv", ["segment.py", *given, *more])
        main()

    return here


@pytest.mark.parametrize(
    ("layout", "write", "classes", "more"),
    [
        ("voc12aug", _voc, 21, []),
        ("cityscapes", _cityscapes, 19, ["inference.mode=slide", "inference.stride=24"]),
    ],
)
def test_other_layouts_from_disk_to_score(
    given: list[str], run: Any, tmp_path: Path, layout: Any, write: Any, classes: int, more: list[str]
) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    write(root)
    run(f"data={{layout: {layout}, classes: {classes}}}", "--data", str(root), "crop.scale=null", "optim.lr=0.1",
        "schedule.iterations=12", "data.broken_share=0", "--draw", "1", *more)  # fmt: skip
    pairs = list_split(root, layout, "val")
    facts = _result(out)["data"]
    assert (facts["train"]["images"], facts["val"]["images"]) == (len(list_split(root, layout, "train")), len(pairs))
    metrics = _result(out)["metrics"]
    windows = {"window": 32, "stride": 24} if more else {}
    matrix = _confusion(_trained(out, given), pairs, classes, zero_is_nothing=False, **windows)  # type: ignore[arg-type]
    assert matrix.sum() < sum(np.array(PIL.Image.open(label)).size for _, label in pairs)  # some have no label
    _equal_scores(metrics, matrix)
    assert len(find_pictures(out)[0]) == 1


def test_a_vit_at_another_size_in_windows_and_bfloat16(given: list[str], run: Any, tmp_path: Path) -> None:
    arch = "vit_small_patch16_224(img_size=64, depth=4, embed_dim=24, num_heads=3)"
    source = tmp_path / "vit.pth"
    torch.save(open_backbone(f"timm:{arch}", seed=5).model.state_dict(), source)
    given += ["--ckpt", f"random:{source}", "--arch", arch]
    run("data.scenes.size=128", "network={backbone: vit_small_patch16_224, taps: [0, 1, 2, 3], drop_path: 0.1}",
        "head={kind: upernet, channels: 8, auxiliary: 0.4}", "optim={name: adamw, lr: 0.001, layer_decay: 0.9}",
        "crop.size=96", "crop.scale=[128, 128]", "inference={mode: slide, stride: 48, scale: null}",
        "precision=bfloat16", "schedule.iterations=3")  # fmt: skip
    result = _result(tmp_path / "out")
    assert "position embeddings resized from 16 to 6×6 places (bicubic" in result["settings"]["loaded"]
    assert result["checkpoint"]["given"].startswith("random:")
    root = _scenes(given, "data.scenes.size=128")
    model = _trained(tmp_path / "out", given[given.index("random:" + str(source)) - 1 :])
    assert type(model.backbone).__name__ == "MAEVisionTransformer"
    pairs = list_split(root, "scenes", "val")
    _equal_scores(result["metrics"], _confusion(model, pairs, 9, zero_is_nothing=True, window=96, stride=48))


def test_nothing_is_lost_between_training_and_the_end(
    given: list[str], run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    for place in ("core.result.write_result", "evaluate.segmentation.pictures.draw_predictions"):
        with monkeypatch.context() as patched:
            patched.setattr(place, lambda *_: sys.exit(9))  # as a kill at this moment
            with pytest.raises(SystemExit, match="9"):
                run("--draw", "1", "--resume")
        assert (out / "engine/iter_6.pth").is_file()
    first = _result(out)
    trained = torch.load(out / "engine/iter_6.pth", weights_only=True)["meta"]["seconds"]
    capsys.readouterr()
    run("--draw", "1", "--resume")
    said = capsys.readouterr().out
    assert "(iteration 6): trained to the end, only measured now" in said
    assert "loss" not in said
    assert _result(out)["metrics"] == first["metrics"]
    assert _result(out)["wall_seconds"] > trained > 0
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [2, 4, 6]
    assert sorted(file.name for file in out.iterdir()) == [
        "config.yaml", "metrics.jsonl", "pictures", "result.json", "segmentor.pth",
    ]  # fmt: skip
    before = (out / "result.json").read_bytes()
    run("--resume")
    said = capsys.readouterr().out
    assert said.startswith("finished already, on 20")
    assert f"mIoU {first['metrics']['mIoU']:.2f}" in said
    assert "iteration" not in said
    assert (out / "result.json").read_bytes() == before
    changed = tmp_path / "tiny.yaml"
    changed.write_text(PROTOCOL.replace("lr: 0.05", "lr: 0.04"))
    with pytest.raises(UserError, match=r"finished run with other settings \(different: optim\); choose another --out"):
        run("--resume")


def test_a_broken_training_image_is_left_out_and_named(
    given: list[str], run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = tmp_path / "ade", tmp_path / "out"
    shutil.copytree(_scenes(given), root)
    image = root / "images/training/ADE_train_00000003.jpg"
    image.write_bytes(image.read_bytes()[:-100])  # the header is whole, the pixels are not
    given += ["data.layout=ade20k", "--data", str(root)]
    refused = python(str(SCRIPT), *given, "--workers", "1", "--out", str(tmp_path / "refused"))
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.count("\n") == 1
    said = f"error: 1 of 12 images are broken, more than the allowed share 0.001: {image}: image file is truncated ("
    assert refused.stderr.startswith(said)
    header = root / "annotations/training/ADE_train_00000005.png"
    header.write_bytes(b"no image")
    test = root / "images/validation/ADE_val_00000002.jpg"
    test.write_bytes(test.read_bytes()[:-100])
    run("data.broken_share=0.2")
    said, data = capsys.readouterr().out, _result(out)["data"]
    assert f"2 left out of training: {header}: is not an image; {image}: image file is truncated" in said
    assert f"1 left out of test: {test}: image file is truncated" in said
    assert [name.partition(": ")[0] for name in data["train"]["broken"]] == [str(header), str(image)]
    assert [name.partition(": ")[0] for name in data["val"]["broken"]] == [str(test)]
    pairs = [pair for pair in list_split(root, "ade20k", "val") if pair[0] != test]
    assert len(pairs) == 6
    _equal_scores(_result(out)["metrics"], _confusion(_trained(out, given), pairs, 9, zero_is_nothing=True))


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


def test_a_crafted_checkpoint_runs_no_code(
    given: list[str], run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, mark = tmp_path / "out", tmp_path / "ran"
    work = out / "engine"
    work.mkdir(parents=True)
    torch.save({"state_dict": {}, "optimizer": {}, "meta": _Attack(mark)}, work / "iter_2.pth")
    (work / "last_checkpoint").write_text("iter_2.pth")
    with pytest.raises(UserError, match=r"identity\.json can't be read"):
        run("--resume")
    shutil.rmtree(work)
    # Even where the rest of the run's folder is right.
    prepare = evaluate.segmentation.run.prepare_folder

    def spoiled(out: Path, identity: dict[str, Any], resume: bool, broken: Any) -> Any:
        prepare(out, identity, resume)
        torch.save({"state_dict": {}, "optimizer": {}, "meta": _Attack(mark)}, work / "iter_2.pth")
        (work / "last_checkpoint").write_text("iter_2.pth")
        # Once caught before the engine sees it, and once handed to the engine itself, which refuses it too.
        return prepare(out, identity, True) if caught else evaluate.segmentation.run.Start(str(work / "iter_2.pth"))

    monkeypatch.setattr("evaluate.segmentation.run.prepare_folder", spoiled)
    caught = True
    with pytest.raises(UserError, match=r"iter_2\.pth holds more than tensors and plain values"):
        run("--resume")
    shutil.rmtree(work)
    caught = False
    with pytest.raises(pickle.UnpicklingError):
        run("--resume")
    assert not mark.exists()
    # The file is an attack: Python's own unpickler runs it.
    pickle.loads(pickle.dumps(_Attack(mark)))
    assert mark.exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--ckpt", "pixels"], "pixels is no network"),
        (["network.backbone=resnet50"], "tiny measures a resnet50"),
        (["--data", "/nowhere"], "scenes are built in, so data.root=/nowhere can't hold"),
        (["data.layout=ade20k", "--data", "/nowhere"], "no folder /nowhere; pass --data /path/to/ADEChallengeData2016"),
        (["data.classes=8"], "classes must be 9 for the layout scenes, not 8"),
        (["--seed", "-1"], "--seed must be 0 or more, not -1"),
        (["--batch", "0"], "--batch must be at least 1, not 0"),
        (["--batch", "40"], "--batch 40 leaves 1 of 6 iterations, too few for the schedule (warmup must be"),
        (["network.frozen=true", "network.drop_path=0.1"], "drop_path must be 0 for a frozen backbone, not 0.1"),
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


def test_a_diverged_run_stops_before_its_checkpoint(run: Any, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^the loss is not finite at iteration 2; the last checkpoint is intact[^\n]*$"
    ):
        run("optim.lr=1e30", "schedule.warmup=0")
    assert not list((tmp_path / "out/engine").glob("*.pth"))


def test_a_bad_label_met_in_training_is_one_sentence_too(given: list[str], tmp_path: Path) -> None:
    root = tmp_path / "ade"
    shutil.copytree(_scenes(given), root)
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
        "import evaluate.segmentation.checks as checks\n"
        "checks.spread = lambda total, most: [0] if total == 12 else range(total)\n"
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


def test_bfloat16_on_the_cpu(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("precision=bfloat16", "--batch", "2")
    result = _result(tmp_path / "out")
    assert result["protocol"].startswith("tiny (modified: ")
    assert "precision=bfloat16" in result["protocol"]
    assert result["settings"]["schedule"]["iterations"] == 12
    assert result["settings"]["scaling"].startswith("batch 4 -> 2: learning rate × 0.5 = 0.025, iterations ÷ 0.5 = 12")
    assert "scaled    batch 4 -> 2" in capsys.readouterr().out
