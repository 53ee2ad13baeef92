"""evaluate/segment.py as a user runs it: alone, in two processes, on all layouts, frozen, in bfloat16."""

from __future__ import annotations

import re
import resource
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

pytest.importorskip("mmseg", reason="needs MMSegmentation", exc_type=ImportError)

from converters.open import open_backbone
from evaluate.common.pictures import find_pictures
from evaluate.segmentation.data.layouts import list_split
from tests.evaluate.segmentation.tiny_segmentation import (
    BACKBONE,
    FILES,
    SCRIPT,
    arguments,
    confusion,
    equal_scores,
    own_ade20k,
    result,
    run,
    scenes,
    small_place,
    steps,
    trained,
)
from tests.torchrun import python, torchrun


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    yield from small_place(tmp_path_factory)


@pytest.fixture(scope="module")
def finished(place: Path) -> tuple[Path, str]:
    """The folder of a run, and what it printed."""
    return place / "out", run(*arguments(place, place / "out", "--draw", "2"))


def test_alone(place: Path, finished: tuple[Path, str]) -> None:
    out, output_text = finished
    lines = output_text.splitlines()
    assert lines[0] == "protocol  tiny"
    assert any("126 of 126 tensors" in line for line in lines)
    assert any("SyncBN" in line for line in lines)
    assert any(re.search(r"background.*mIoU \d", line) for line in lines)
    assert any(line.startswith("iteration 6/6  loss ") and line.endswith("ETA 0 s") for line in lines)
    metrics = result(out)["metrics"]
    assert {"mIoU", "mAcc", "aAcc", "IoU", "majority_class", "majority_mIoU", "majority_aAcc"} == metrics.keys()
    assert list(metrics["IoU"])[:2] == ["background", "disc"]
    assert len(metrics["IoU"]) == 9
    assert result(out)["data"]["val"]["images"] == 7
    assert steps(out) == [2, 4, 6]
    assert sorted(file.name for file in out.iterdir()) == FILES
    kept = torch.load(out / "segmentor.pth", weights_only=True)
    assert "decode_head.conv_seg.weight" in kept["state_dict"]
    first, last = find_pictures(out)[0]
    assert (first.kind, last.kind) == ("label maps", "label maps")
    assert re.match(rf"{first.path.stem}: .*\bbackground ", first.caption)
    assert "; predicted " in first.caption
    with PIL.Image.open(first.path) as picture:
        assert (picture.width, picture.height >= 160 + 4 + 16) == (3 * 160 + 2 * 4, True)
    equal_scores(
        metrics, confusion(trained(out), list_split(scenes(place), "scenes", "val").pairs, 9, reduce_zero_label=True)
    )


@pytest.mark.slow
def test_two_processes(place: Path, finished: tuple[Path, str], tmp_path: Path) -> None:
    done = torchrun(SCRIPT, *arguments(place, tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("protocol  tiny") == 1
    assert "synchroni" in done.stdout
    assert "2 processes" in done.stdout
    found, alone = result(tmp_path / "two"), result(finished[0])
    assert found["metrics"]["majority_mIoU"] == alone["metrics"]["majority_mIoU"]
    assert found["data"] == alone["data"]
    # All seven test images are counted once, though the ranks are padded to eight.
    pairs = list_split(scenes(place), "scenes", "val").pairs
    assert len(pairs) == 7
    for folder, scored in ((finished[0], alone["metrics"]), (tmp_path / "two", found["metrics"])):
        model = trained(folder)
        equal_scores(scored, confusion(model, pairs, 9, reduce_zero_label=True))
        padded = confusion(model, [*pairs, pairs[0]], 9, reduce_zero_label=True)
        assert padded.diagonal().sum() / padded.sum() != pytest.approx(scored["aAcc"] / 100, abs=1e-9)


@pytest.mark.slow
def test_a_frozen_backbone_is_the_same_after_training_in_two_processes(place: Path, tmp_path: Path) -> None:
    done = torchrun(SCRIPT, *arguments(place, tmp_path, "network.frozen=true"))
    assert done.returncode == 0, done.stderr
    assert re.search("126 of 126 tensors.*frozen", done.stdout)
    kept = torch.load(tmp_path / "segmentor.pth", weights_only=True)["state_dict"]
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


@pytest.mark.parametrize(
    ("layout", "write", "classes", "more"),
    [
        ("voc12aug", _voc, 21, []),
        ("cityscapes", _cityscapes, 19, ["inference.mode=slide", "inference.stride=24"]),
    ],
)
def test_other_layouts_from_disk_to_score(
    place: Path, tmp_path: Path, layout: Any, write: Any, classes: int, more: list[str]
) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    write(root)
    run(*arguments(place, out, f"data={{layout: {layout}, classes: {classes}}}", "--data", str(root), "optim.lr=0.1",
                   "crop.scale=null", "schedule.iterations=12", "checkpoint_every=12", "data.broken_share=0",
                   "--draw", "1", *more))  # fmt: skip
    pairs = list_split(root, layout, "val").pairs
    facts = result(out)["data"]
    assert (facts["train"]["images"], facts["val"]["images"]) == (
        len(list_split(root, layout, "train").pairs),
        len(pairs),
    )
    windows: dict[str, int] = {"window": 32, "stride": 24} if more else {}
    matrix = confusion(trained(out), pairs, classes, reduce_zero_label=False, **windows)  # type: ignore[arg-type]
    assert matrix.sum() < sum(np.array(PIL.Image.open(label)).size for _, label in pairs)  # some have no label
    equal_scores(result(out)["metrics"], matrix)
    assert len(find_pictures(out)[0]) == 1


def test_labels_from_0_or_1_and_of_16_bits_train_the_same_network(
    place: Path, finished: tuple[Path, str], tmp_path: Path
) -> None:
    own = own_ade20k(place, tmp_path / "ade")
    files = sorted((tmp_path / "ade/annotations").rglob("*.png"))
    for number, file in enumerate(files):
        classes = np.array(PIL.Image.open(file)) - np.uint8(1)
        PIL.Image.fromarray(classes if number % 2 else classes.astype(np.uint16)).save(file)
    output_text = run(*arguments(place, tmp_path / "out", *own, "data.first_label=0"))
    data = result(tmp_path / "out")["data"]
    assert sum(sum(data[split]["account"]["converted"].values()) for split in ("train", "val")) == (len(files) + 1) // 2
    assert "I;16" in output_text
    assert data["val"]["labels"]["ignored"] == {}
    assert result(tmp_path / "out")["metrics"] == result(finished[0])["metrics"]
    ours, theirs = (
        torch.load(out / "segmentor.pth", weights_only=True)["state_dict"] for out in (tmp_path / "out", finished[0])
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_images_of_several_sizes_and_kinds(place: Path, tmp_path: Path) -> None:
    own = own_ade20k(place, tmp_path / "ade")
    image, label = list_split(tmp_path / "ade", "ade20k", "val").pairs[2]
    PIL.Image.open(image).resize((40, 36)).convert("CMYK").save(image)
    PIL.Image.open(label).resize((40, 36), PIL.Image.Resampling.NEAREST).save(label)
    output_text = run(*arguments(place, tmp_path / "out", *own, "inference.batch=7", "schedule.iterations=2",
                          "schedule.warmup=0"))  # fmt: skip
    assert "instead of 7" in output_text
    converted = result(tmp_path / "out")["data"]["val"]["account"]["converted"]
    assert [(count, "CMYK" in reason) for reason, count in converted.items()] == [(1, True)]
    pairs = list_split(tmp_path / "ade", "ade20k", "val").pairs
    metrics = result(tmp_path / "out")["metrics"]
    equal_scores(metrics, confusion(trained(tmp_path / "out"), pairs, 9, reduce_zero_label=True))


def test_a_vit_at_another_size_in_windows_and_bfloat16(place: Path, tmp_path: Path) -> None:
    arch = "vit_small_patch16_224(img_size=64, depth=4, embed_dim=24, num_heads=3)"
    source, out = tmp_path / "vit.pth", tmp_path / "out"
    torch.save(open_backbone(f"timm:{arch}", seed=5).model.state_dict(), source)
    run(*arguments(
        place, out, "--arch", arch, "data.scenes.size=128",
        "network={backbone: vit_small_patch16_224, taps: [0, 1, 2, 3], drop_path: 0.1}",
        "head={kind: upernet, channels: 8, auxiliary: 0.4}", "optim={name: adamw, lr: 0.001, layer_decay: 0.9}",
        "crop.size=96", "crop.scale=[128, 128]", "inference={mode: slide, stride: 48, scale: null}",
        "precision=bf16", "schedule.iterations=3", "checkpoint_every=3", ckpt=f"random:{source}",
    ))  # fmt: skip
    found = result(out)
    assert re.search("resized from 16 to 6×6 .*rule timm", found["settings"]["loaded"])
    assert found["checkpoint"]["given"].startswith("random:")
    model = trained(out, f"random:{source}", arch)
    assert type(model.backbone).__name__ == "MAEVisionTransformer"
    pairs = list_split(scenes(place, "data.scenes.size=128"), "scenes", "val").pairs
    half = ((0.5,) * 3, (0.5,) * 3)  # timm's mean and deviation of that name
    matrix = confusion(model, pairs, 9, reduce_zero_label=True, window=96, stride=48, statistics=half)
    equal_scores(found["metrics"], matrix)


def test_a_broken_training_image_is_left_out_and_named(place: Path, tmp_path: Path) -> None:
    root, out = tmp_path / "ade", tmp_path / "out"
    own = own_ade20k(place, root)
    image = root / "images/training/ADE_train_00000003.jpg"
    image.write_bytes(image.read_bytes()[:-100])  # the header is whole, the pixels are not
    header = root / "annotations/training/ADE_train_00000005.png"
    header.write_bytes(b"no image")
    test = root / "images/validation/ADE_val_00000002.jpg"
    test.write_bytes(test.read_bytes()[:-100])
    output_text = run(*arguments(place, out, *own, "data.broken_share=0.2", "checkpoint_every=6"))
    data = result(out)["data"]
    assert re.search(rf"\b2 .*training: {header}: .*; {image}: ", output_text)
    assert re.search(rf"\b1 .*test: {test}: ", output_text)
    assert [name.partition(": ")[0] for name in data["train"]["broken"]] == [str(header), str(image)]
    assert [name.partition(": ")[0] for name in data["val"]["broken"]] == [str(test)]
    pairs = [pair for pair in list_split(root, "ade20k", "val").pairs if pair[0] != test]
    assert len(pairs) == 6
    equal_scores(result(out)["metrics"], confusion(trained(out), pairs, 9, reduce_zero_label=True))


def test_help_is_quick() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = python(str(SCRIPT), "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert "evaluate/segment.py --ckpt" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_bfloat16_on_the_cpu(place: Path, tmp_path: Path) -> None:
    output_text = run(*arguments(place, tmp_path, "precision=bf16", "--batch", "2", "checkpoint_every=12"))
    found = result(tmp_path)
    assert found["protocol"].startswith("tiny (modified: ")
    assert "precision=bf16" in found["protocol"]
    assert found["settings"]["schedule"]["iterations"] == 12
    assert all(part in found["settings"]["scaling"] for part in ("4 -> 2", "× 0.5 = 0.025", "÷ 0.5 = 12"))
    assert "scaled    batch 4 -> 2" in output_text
