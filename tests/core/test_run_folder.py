"""core/run_folder.py and core/result.py: what a run leaves behind, and what a result must say."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.backbones import Backbone, BackboneConfig, build_backbone
from core.checkpoints import tensors_digest
from core.config import load_config
from core.errors import UserError
from core.result import Result, write_result
from core.run_folder import RunFolder, drop_metrics_after

CONFIG = BackboneConfig("resnet18", {"channels": [8, 8, 8, 8]})


def test_config_and_metrics_are_written_as_they_come(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", CONFIG)
    folder.write(1, {"loss": 0.5})
    folder.write(2, {"loss": 0.25, "note": "x"})
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()  # before close: a killed run keeps its lines
    assert [json.loads(line) for line in lines] == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "note": "x"}]
    assert load_config(BackboneConfig, tmp_path / "run/config.yaml") == CONFIG
    folder.close()


def test_lines_beyond_the_checkpoint_are_dropped_and_a_torn_one_too(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    drop_metrics_after(tmp_path, 2)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    drop_metrics_after(tmp_path / "absent", 0)


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = RunFolder(tmp_path, CONFIG, "tensorboard")
    folder.write(7, {"loss": 0.5, "note": "x"})
    folder.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(7, 0.5)]


def test_weights_and_biases_finds_its_folder_again_and_distinguishes_equal_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    run = SimpleNamespace(log=lambda values, step: None, finish=lambda: None)
    module = SimpleNamespace(init=lambda **given: seen.append(given) or run)
    monkeypatch.setitem(sys.modules, "wandb", module)
    for path in (tmp_path / "a/r50", tmp_path / "b/r50", tmp_path / "a/r50"):
        RunFolder(path, CONFIG, "wandb").close()
    assert [given["name"] for given in seen] == ["r50"] * 3
    assert seen[0]["id"] == seen[2]["id"] != seen[1]["id"]
    assert seen[2]["resume"] == "allow"


def test_metrics_on_a_full_disk_are_a_mistake_that_is_reported(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, CONFIG)
    os.dup2(os.open("/dev/full", os.O_WRONLY), folder._metrics.fileno())
    with pytest.raises(UserError, match=rf"{tmp_path}.*No space left on device"):
        folder.write(1, {"loss": 0.5})


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run.*--out"):
        RunFolder(tmp_path / "file/run", CONFIG)


def test_a_result_says_everything_needed_to_compare_it(tmp_path: Path) -> None:
    backbone = Backbone(CONFIG, build_backbone(CONFIG), "somewhere", {"family": "test", "epoch": "3"})
    settings = {"kind": "knn", "scaled_down": True, "protocol_version": 3, "k": 20}
    result = Result(
        "knn_x", {"top1": 50.0}, backbone, {"bank": {"digest": "d"}}, 4, settings, 1000.0, torch.device("cpu")
    )
    write_result(tmp_path / "r/result.json", result)
    written = json.loads((tmp_path / "r/result.json").read_text())
    assert (written["protocol"], written["kind"], written["scaled_down"]) == ("knn_x", "knn", True)
    assert written["protocol_version"] == 3
    assert written["metrics"] == {"top1": 50.0}
    assert written["checkpoint"] == {
        "given": "somewhere",
        "backbone_sha256": tensors_digest(backbone.model.state_dict()),
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "pos_resize": "timm",
        "family": "test",
        "epoch": "3",
    }
    assert (written["seed"], written["data"], written["settings"]) == (4, {"bank": {"digest": "d"}}, settings)
    assert written["libraries"]["torch"] == torch.__version__.partition("+")[0]
    assert written["date"] == "1970-01-01T00:16:40Z"
    assert {"device", "git_revision", "wall_seconds", "backbone"} <= written.keys()
