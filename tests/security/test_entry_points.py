"""The front doors, given files from strangers: exit code 2, one line, nothing run, nothing written."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from core.backbones import BackboneConfig, build_backbone
from core.errors import BrokenImage, UserError, run_entry_point
from evaluate.detection.training import state
from evaluate.segmentation.data.labels import check_pair
from evaluate.segmentation.engine.run_state import ENGINE_FOLDER, finished_result, prepare_folder
from evaluate.segmentation.protocol import SegmentDataConfig
from evaluate.tables.results import read_results
from tests.security.gadgets import Gadget, dumps, gadgets
from tests.torchrun import python

CHECKED = {
    "evaluate.knn": ["--protocol", "knn_scenes_64px"],
    "evaluate.linear": ["--protocol", "linear_scenes_64px"],
    "evaluate.logreg": ["--protocol", "logreg_scenes_64px"],
    "evaluate.finetune": ["--protocol", "finetune_scenes_64px_10pct"],
    "evaluate.transfer_sets": ["--protocol", "transfer_small", "--sets", "scenes"],
    "evaluate.coco": ["--protocol", "scenes_maskrcnn_r18_fpn_300it"],
    "evaluate.segment": ["--protocol", "scenes_fcn_r18_400it"],
    "converters.convert": ["--to", "timm"],
}


def _ended(
    module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What the entry point says on stderr, having ended with code 2."""
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as end:
        run_entry_point(importlib.import_module(module).main)
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.pth", "a.pkl"])
@pytest.mark.parametrize("module", CHECKED)
def test_code_in_a_checkpoint(
    module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    canary, out = tmp_path / "canary", tmp_path / ("out.pth" if "convert" in module else "out")
    if name.endswith(".pkl"):
        (tmp_path / name).write_bytes(dumps({"model": gadgets(canary)["eval"]}))
    else:
        torch.save({"state_dict": gadgets(canary)["os.mkdir"]}, tmp_path / name)
    arguments = ["--ckpt", str(tmp_path / name), "--out", str(out), *CHECKED[module]]
    printed = _ended(module, arguments, monkeypatch, capsys)
    errors = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "execut" in errors[0]
    assert "Traceback" not in printed
    assert sorted(os.listdir(tmp_path)) == [name]


def test_code_in_the_state_of_a_run_that_is_resumed(
    tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    states = tmp_path / "run" / "checkpoints"
    states.mkdir(parents=True)
    canary = tmp_path / "canary"
    torch.save({"format": "ssl-transfer/training-state/1", "x": gadgets(canary)["exec"]}, states / "step_000000001.pt")
    printed = _ended(
        "pretrain.run",
        ["--config", "configs/pretrain/demo_scenes.yaml", "--data", f"folder:{image_folder}", "--out",
         str(tmp_path / "run"), "--device", "cpu", "--workers", "0", "batch=4", "monitor.k=2"],
        monkeypatch, capsys,
    )  # fmt: skip
    assert "execut" in printed
    assert not canary.exists()


def test_as_a_user_sees_it(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save(Gadget(os.mkdir, str(canary)), tmp_path / "a.pth")
    done = python("evaluate/knn.py", "--ckpt", str(tmp_path / "a.pth"), "--protocol", "knn_scenes_64px")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}/a.pth ")
    assert "posix.mkdir" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not canary.exists()


@pytest.mark.parametrize("name", ["x" * 5000, f"{'y' * 300}/a.pth"])
def test_names_that_no_file_can_have(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = _ended("evaluate.knn", ["--ckpt", name, "--protocol", "knn_scenes_64px"], monkeypatch, capsys)
    assert printed.count("error: ") == 1
    assert "File name too long" in printed


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "", "x" * 101, "a\nb"])
def test_a_protocol_name_does_not_lead_out_of_the_results(name: str) -> None:
    from evaluate.common.protocol import check_name

    with pytest.raises(ValueError, match=r"\bname\b.*100"):
        check_name(name)
    check_name("knn_dino.v2-a")


def test_code_in_the_checkpoint_of_a_segmentation_run(tmp_path: Path) -> None:
    canary, work = tmp_path / "canary", tmp_path / ENGINE_FOLDER
    prepare_folder(tmp_path, {"a": 1})
    document = {"state_dict": {}, "optimizer": {}, "meta": {"iter": 1, "seconds": 1.0, "x": gadgets(canary)["eval"]}}
    torch.save(document, work / "iter_1.pth")
    (work / "last_checkpoint").write_text("/elsewhere/iter_1.pth")
    with pytest.raises(UserError, match=r"iter_1\.pth.*eval"):
        prepare_folder(tmp_path, {"a": 1})
    assert not canary.exists()
    for meta in (None, [], {"iter": 1}):
        torch.save({**document, "meta": meta}, work / "iter_1.pth")
        with pytest.raises(UserError, match=r"iter_1\.pth"):
            prepare_folder(tmp_path, {"a": 1})
    for text in ("", "[1]", "3", "[" * 10**5):
        (work / "identity.json").write_text(text)
        with pytest.raises(UserError, match=r"identity\.json"):
            prepare_folder(tmp_path, {"a": 1})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"settings": 3}', "[" * 10**5, "\0"])
def test_a_damaged_result_of_a_finished_run(text: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match=r"result\.json"):
        finished_result(tmp_path, {"a": 1})


@pytest.mark.parametrize("identity", [None, [], "x"])
def test_a_detector_state_without_its_identity(identity: Any, tmp_path: Path) -> None:
    torch.save({"format": state.FORMAT, "identity": identity}, tmp_path / state.FILE)
    with pytest.raises(UserError, match=state.FILE):
        state.load(tmp_path, {"a": 1})


def test_label_maps_are_of_known_formats(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n")
    with pytest.raises(BrokenImage, match=r"a\.png"):
        check_pair(tmp_path / "a.png", tmp_path / "a.png", SegmentDataConfig("scenes", classes=9))


def test_places_whose_names_are_no_utf8(tmp_path: Path, image_folder: Path) -> None:
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xe9sultats"))
    place.mkdir()
    torch.save(build_backbone(BackboneConfig("resnet18")).state_dict(), place / "b.pth")
    done = python(
        *("evaluate/knn.py", "--ckpt", str(place / "b.pth"), "--protocol", "knn_scenes_64px", "--workers", "0"),
        *("--data", f"folder:{image_folder}", "--device", "cpu", "--out", str(place), "ks=[2]"),
    )
    assert done.returncode == 0, done.stderr
    assert "r\\udce9sultats" in done.stdout
    document = json.loads((place / "result.json").read_text(encoding="utf-8"))
    assert document["checkpoint"]["given"].startswith(str(place))
    table = python("evaluate/table.py", str(place), "--html", str(tmp_path / "page.html"))
    assert table.returncode == 0, table.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {"top1": float("nan")}},
        {"seed": 0.5},
        {"seed": float("inf")},
        {"protocol": ["x"]},
        {"wall_seconds": "long"},
        {"settings": None},
        {"checkpoint": {"given": 3, "backbone_sha256": "x"}},
        {"data": {"val": {"digest": "x", "images": 10**20}}},
    ],
)
def test_a_result_of_other_types_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    sound = {
        "format": "ssl-transfer/result/1", "protocol": "knn_dino", "metrics": {"top1": 1.0}, "seed": 0,
        "backbone": "resnet18", "checkpoint": {"given": "x", "backbone_sha256": "x"}, "wall_seconds": 1,
        "data": {"val": {"digest": "x", "images": 10}}, "settings": {},
    }  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(sound))
    assert len(read_results(tmp_path)) == 1
    (tmp_path / "result.json").write_text(json.dumps(sound | change))
    with pytest.raises(UserError, match=r"result\.json"):
        read_results(tmp_path)


def test_a_refusal_is_one_line_whatever_it_quotes() -> None:
    assert str(UserError("no key a\nb\u2028c; leave it out")) == "no key a b c; leave it out"
    assert str(BrokenImage("a\nb.jpg", "is\rno image")) == "a b.jpg: is no image"
    assert str(pickle.loads(pickle.dumps(UserError("a\nb")))) == "a b"
    assert str(pickle.loads(pickle.dumps(BrokenImage("a", "b\nc")))) == "a: b c"
