"""Shifted test sets: layouts as their authors ship them, restricted answers, mCE, heads, corruptions, broken data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file

from core.errors import UserError
from evaluate.probes.knn.probe import PROBE as KNN
from evaluate.probes.ood.heads import answers, input_of
from evaluate.probes.ood.measure import mean_corruption_error, summary
from evaluate.probes.ood.probe import PROBE
from evaluate.probes.ood.shifts import C_CORRUPTIONS, open_folder, open_objectnet
from tests.evaluate.dense.small import VIT, measure

WNIDS = tuple(f"n{number:08d}" for number in range(1000))
SMALL = ["features.transform.resize=16", "features.transform.crop=16", "k=1"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_TRANSFER_CACHE", str(tmp_path / "cache"))


def write(folder: Path, level: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", (20, 20), (level, 255 - level, level // 2)).save(folder / "a.png")


def write_shifts(root: Path, classes: int) -> None:
    """Variants with 200 of so many classes, each image of its class's colour."""
    step = classes // 200
    for name in ("imagenet-a", "imagenet-r"):
        for number in range(0, 200 * step, step):
            write(root / name / WNIDS[number], number * 255 // (classes - 1))
    write(root / "imagenetv2-matched-frequency-format-val/10", 10 * 255 // (classes - 1))


def write_sets(root: Path, classes: int) -> Path:
    """An ImageNet of so many classes, each of one colour, and its variants."""
    for number in range(classes):
        for split in ("train", "val"):
            write(root / "imagenet" / split / WNIDS[number], number * 255 // (classes - 1))
    write_shifts(root / "shifts", classes)
    return root


def test_answers_are_looked_for_among_the_classes_of_a_set_alone(tmp_path: Path) -> None:
    write_shifts(tmp_path / "shifts", classes=1000)
    shift = open_folder(tmp_path / "shifts/imagenet-a", "imagenet-a", WNIDS)
    scores = np.zeros((1, 1000), np.float32)
    scores[0, 1], scores[0, 15] = 5.0, 1.0  # class 1 is not of the set
    assert answers(scores, None)[0] == 1
    assert shift.images.classes[answers(scores, shift.groups)[0]] == WNIDS[15]
    assert (len(shift.images), len(shift.groups or ())) == (200, 200)
    two = open_folder(tmp_path / "shifts/imagenetv2-matched-frequency-format-val", "imagenet-v2", WNIDS)
    assert two.images.label(0) == 10, "folders are numbers, not sorted as strings"


def test_a_class_of_objectnet_takes_its_best_logit(tmp_path: Path) -> None:
    folder = tmp_path / "objectnet"
    for name in ("chair", "ladle", "unknown_thing"):
        write(folder / "images" / name, 100)
    (folder / "mappings").mkdir()
    texts: dict[str, Any] = {
        "folder_to_objectnet_label.json": {"chair": "Chair", "ladle": "Ladle", "unknown_thing": "Unknown"},
        "objectnet_to_imagenet_1k.json": {"Chair": "folding chair; rocking chair", "Ladle": "ladle"},
        "pytorch_to_imagenet_2012_id.json": {"0": 2, "1": 0, "2": 1, "3": 3},
    }
    for name, content in texts.items():
        (folder / "mappings" / name).write_text(json.dumps(content))
    (folder / "mappings/imagenet_to_label_2012_v2").write_text("folding chair\nladle\nrocking chair\ntench\n")
    shift = open_objectnet(folder, WNIDS[:4], restricted=True)
    assert shift.groups == ((1, 0), (2,))
    assert [shift.images.describe(index).rsplit("/")[-2] for index in range(2)] == ["chair", "ladle"]
    assert shift.images.image(0).size == (16, 16), "two pixels of border are cut off at each side"
    assert shift.images.account().skipped == {"not of a shared class": 1}
    scores = np.array([[0.1, 0.9, 0.5, 2.0]], np.float32)
    assert answers(scores, shift.groups)[0] == 0
    assert answers(scores, open_objectnet(folder, WNIDS[:4], restricted=False).groups)[0] == 2, "the tench wins"
    with pytest.raises(UserError, match="4 classes"):
        open_objectnet(folder, WNIDS, restricted=True)


def test_the_mean_corruption_error_of_alexnet_is_100_and_a_missing_cell_is_an_error() -> None:
    rows = {name: [100 - 100 * error] * 5 for name, error in C_CORRUPTIONS.items()}
    assert mean_corruption_error(rows) == pytest.approx(100.0)
    half = {name: [100 - 50 * error] * 5 for name, error in C_CORRUPTIONS.items()}
    assert mean_corruption_error(half) == pytest.approx(50.0)
    assert np.mean(list(C_CORRUPTIONS.values())) == pytest.approx(0.7886, abs=1e-3)
    for broken in ({**rows, "fog": [1.0]}, {name: rows[name] for name in list(rows)[1:]}):
        with pytest.raises(ValueError, match="15 corruptions"):
            mean_corruption_error(broken)


def test_the_retained_share_and_curves() -> None:
    cells = {f"corruptions/{name}/{severity}": 40.0 - severity for name in ("fog", "snow") for severity in range(1, 6)}
    found = summary({"clean": 74.0, "imagenet-a": 5.0, **cells})
    assert (found["corrupted"], found["retained"], found["imagenet_a"]) == (37.0, 50.0, 5.0)
    assert found["corrupted_curves"]["fog"] == [39.0, 38.0, 37.0, 36.0, 35.0]
    assert input_of("last 4 blocks, cls+patches") == (4, "cls+patches")
    assert input_of("average pool") == (1, "auto")


def test_scenes_by_two_heads_in_one_pass_and_the_clean_accuracy_is_that_of_knn(tmp_path: Path) -> None:
    size = ["data.scenes.size=32", "data.scenes.train=30", "data.scenes.test=12"]
    view = ["features.transform.resize=32", "features.transform.crop=32"]
    head = tmp_path / "head.safetensors"
    nearest = measure(KNN, tmp_path / "knn", *size, *view, "ks=[5]", ckpt=VIT, protocol="knn_scenes_64px")
    digest = json.loads((tmp_path / "knn/result.json").read_text())["checkpoint"]["backbone_sha256"]
    tensors = {"weight": torch.zeros(8, 24), "bias": torch.eye(8)[3], "mean": torch.zeros(24), "factor": torch.ones(24)}
    header = {"format": "ssl-transfer/linear-head/1", "input": "last 1 block, cls", "backbone_sha256": digest}
    save_file(tensors, head, metadata=header)
    few = [*size, *view, "train_limit=null", "val_limit=null", "k=5", "--head", str(head), "--draw", "1"]
    found = measure(PROBE, tmp_path / "out", *few, ckpt=VIT)
    assert found["heads"]["k-NN"]["clean"] == pytest.approx(nearest["weighted_top1_k5"])
    linear = found["heads"]["linear 1"]
    assert found["head"] == "linear 1"
    assert linear["corrupted"] == pytest.approx(linear["clean"]), "a constant answer is as right on corrupted images"
    assert linear["retained"] == pytest.approx(100.0) if linear["clean"] else True
    assert len(found["heads"]["k-NN"]["corrupted_curves"]) == 14
    assert len(list((tmp_path / "out/pictures").glob("*.png"))) == 1
    save_file(tensors, head, metadata={**header, "backbone_sha256": "0"})
    with pytest.raises(UserError, match="another backbone"):
        measure(PROBE, tmp_path / "other", *few, ckpt=VIT)
    head.write_bytes(b"no head")
    with pytest.raises(UserError, match="head"):
        measure(PROBE, tmp_path / "other", *few, ckpt=VIT)


def test_imagenets_variants_from_folders(tmp_path: Path) -> None:
    write_sets(tmp_path, classes=400)
    data = ["--data", f"folder:{tmp_path}/imagenet", f"shift_root={tmp_path}/shifts"]
    sets = "sets=[imagenet-a,imagenet-r,imagenet-v2]"
    found = measure(PROBE, tmp_path / "out", *data, *SMALL, sets)
    plain = measure(PROBE, tmp_path / "plain", *data, *SMALL, "sets=[imagenet-v2]")
    assert found["clean"] == plain["clean"]
    assert found["imagenet_a"] > found["clean"], "among 200 of the 400 near colours it is easier"
    assert found["sets"]["imagenet-r"]["images"] == 200
    (tmp_path / f"shifts/imagenet-a/{WNIDS[0]}/a.png").unlink()
    (tmp_path / f"shifts/imagenet-a/{WNIDS[0]}").rmdir()
    with pytest.raises(UserError, match="200"):
        measure(PROBE, tmp_path / "fewer", *data, *SMALL, sets)
    write(tmp_path / "shifts/imagenet-r/n99999999", 3)
    with pytest.raises(UserError, match="n99999999"):
        measure(PROBE, tmp_path / "unknown", *data, *SMALL, "sets=[imagenet-r]")
    for missing in ("imagenet-sketch", "imagenet-c"):
        with pytest.raises(UserError, match="shift_root"):
            measure(PROBE, tmp_path / "missing", *data, *SMALL, f"sets=[{missing}]")
    (tmp_path / "shifts/imagenet-c/noise").mkdir(parents=True)
    with pytest.raises(UserError, match="gaussian_noise/1"):
        measure(PROBE, tmp_path / "c", *data, *SMALL, "sets=[imagenet-c]")
