"""evaluate/knn.py as people run it: alone, as two processes, with mistakes, with a picture."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from core.distributed import Processes
from core.errors import run_entry_point
from core.features import EvalTransformConfig, Features
from evaluate.common.pictures import find_pictures
from evaluate.knn import main
from evaluate.probes.knn.neighbour_sheet import draw_neighbours
from evaluate.probes.knn.search import Neighbours
from tests.evaluate.probes.knn.knn_of_a_rank import KS, measure
from tests.torchrun import ROOT, python, torchrun

ALONE = Processes(0, 1, torch.device("cpu"))


def test_two_ranks_equal_one(image_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(image_folder, tmp_path / "images")
    for name in ("train/cat/0.jpg", "train/cat/3.jpg", "val/dog/5.jpg"):
        (tmp_path / "images" / name).write_bytes(b"no image")
    done = torchrun(Path(__file__).parent / "knn_of_a_rank.py", str(tmp_path / "images"), str(tmp_path / "found"))
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"found.{rank}").read_text()) for rank in range(2)]
    assert ranks[0] == ranks[1]
    for found, storage in zip(ranks[0], ("fp32", "fp16"), strict=True):
        expected = measure(tmp_path / "images", ALONE, storage)
        np.testing.assert_allclose(found.pop("similarities"), expected.pop("similarities"), atol=1e-6)
        assert found == expected
        assert expected["broken"] == [2, 1]
        assert len(expected["queries"]) == 11
        assert set(expected["metrics"]) >= {f"weighted_top1_k{k}" for k in KS}


BACKBONE = "timm:resnet18(channels=[8,8,16,24], stem=small)"


@pytest.fixture
def protocol(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nks: [1, 5]\nfeatures: {transform: {resize: 36, crop: 32}, batch: 8}\n")
    return path


def arguments(image_folder: Path, protocol: Path, *more: str) -> list[str]:
    data = f"folder:{image_folder}"
    return ["--ckpt", BACKBONE, "--config", str(protocol), "--data", data, "--workers", "0", *more]


def test_a_run_alone_and_a_run_of_two_processes_write_the_same(
    image_folder: Path, protocol: Path, tmp_path: Path
) -> None:
    script, out = ROOT / "evaluate" / "knn.py", tmp_path / "out"
    drawn = ["--neighbours", str(tmp_path / "near.png"), "--draw", "2"]
    given = arguments(image_folder, protocol, "--out", str(out))
    done = python(str(script), *given, *drawn)
    assert done.returncode == 0, done.stderr
    plan = done.stdout.splitlines()[:7]
    assert plan[0] == "protocol  own"
    assert BACKBONE in plan[1]
    assert "none" in plan[2]  # a random baseline
    assert all(part in plan[3] for part in ("24 ", "(auto: avg)", "fp32", "resize 36, crop 32"))
    assert plan[4].startswith(f"bank      folder:{image_folder}/train: 12 images, 2 classes")
    result = json.loads((out / "result.json").read_text())
    assert result["protocol"] == "own"
    assert result["settings"]["ks"] == [1, 5]
    assert {part: facts["images"] for part, facts in result["data"].items()} == {"bank": 12, "queries": 12}
    assert set(result["metrics"]) == {"top1", "top5", "k", "top1_per_class"} | {
        f"{kind}_top{n}_k{k}" for kind in ("weighted", "majority") for n in (1, 5) for k in (1, 5)
    }
    assert f"{result['metrics']['weighted_top1_k5']:.2f}" in done.stdout.split("top-5\n")[1]
    with PIL.Image.open(tmp_path / "near.png") as picture:
        assert picture.size == (16 + 6 * 104, 30 + 8 * 120 + 8)
    pictures, _ = find_pictures(out)
    assert [(picture.path.name, picture.kind) for picture in pictures] == [
        ("map.png", "map of features"), ("neighbours.png", "nearest neighbours"),
    ]  # fmt: skip
    with PIL.Image.open(pictures[1].path) as picture:
        assert picture.size == (16 + 5 * 104, 30 + 2 * 120 + 8)
    for shown in pictures:
        assert f"k-NN top-1 {result['metrics']['top1']:.1f} % (k {result['metrics']['k']})" in shown.caption
    assert np.mean(list(result["metrics"]["top1_per_class"].values())) == pytest.approx(result["metrics"]["top1"])

    together = torchrun(script, *given)
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("protocol  own") == 1
    again = json.loads((out / "result.json").read_text())
    assert again["date"] > result["date"]
    for key in ("metrics", "data", "checkpoint", "protocol", "settings"):
        assert again[key] == result[key]


def test_help_is_quick() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = python("evaluate/knn.py", "--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert "evaluate/knn.py --ckpt runs/r50" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["features.pooling=cls"], "cls"),
        (["--network", "target", "--ckpt", "nowhere"], "nowhere"),
        (["kss=[1]"], "kss"),
        (["--seed", "-1"], "--seed"),
        (["--neighbours", "near.jpg"], "--neighbours near.jpg"),
        (["--data", "folder:/nowhere"], "/nowhere"),
        (["temperature=0.1"], "result.json"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    image_folder: Path,
    protocol: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    parts = {"bank": {"digest": "x"}, "queries": {"digest": "y"}}
    there = {"protocol": "own", "checkpoint": {"backbone_sha256": "a"}, "seed": 0, "data": parts}
    (tmp_path / "result.json").write_text(json.dumps(there))
    monkeypatch.setattr(sys, "argv", ["knn.py", *arguments(image_folder, protocol, "--out", str(tmp_path)), *more])
    with pytest.raises(SystemExit) as stopped:
        run_entry_point(main)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert json.loads((tmp_path / "result.json").read_text()) == there


def test_frames_show_right_and_wrong(image_folder: Path, tmp_path: Path) -> None:
    from core.data.readers.folder import Folder

    bank, images = Folder(image_folder / "train", "bank"), Folder(image_folder / "val", "queries")
    queries = Features(np.zeros((1, 4), np.float32), np.array([1]), np.array([7]), "queries", images.classes, ())
    neighbours = Neighbours(
        np.array([[0.9, 0.8]], np.float32), np.array([[1, 0]], np.int32), np.array([[6, 0]], np.int32)
    )
    path = tmp_path / "near.png"
    draw_neighbours(path, bank, images, queries, neighbours, EvalTransformConfig(36, 32), "a title", seed=0)
    with PIL.Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    frames = [tuple(pixels[30 + 1, left + 1]) for left in (8, 120, 224)]
    assert frames == [(30, 30, 30), (34, 160, 70), (205, 45, 45)]
    from core.features import eval_crop

    shown = eval_crop(bank.image(6), EvalTransformConfig(36, 32))
    assert np.array_equal(pixels[34, 124], shown[0, 0])
