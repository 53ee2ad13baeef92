"""evaluate/finetune.py: one process and two, killed and resumed; layer decay; the labelled part of a set."""

from __future__ import annotations

import json
import shutil
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from core.backbones import Backbone, BackboneConfig, build_backbone
from core.config import load_config
from core.data.open import DataConfig
from core.data.readers.folder import Folder
from core.distributed import Processes
from core.errors import UserError, run_entry_point
from evaluate.common.context import RunContext
from evaluate.common.protocol import full_name
from evaluate.common.resumable import ProbeState
from evaluate.finetune import main
from evaluate.probes.finetune import training
from evaluate.probes.finetune.labelled_subset import labelled_part
from evaluate.probes.finetune.probe import PROBE
from evaluate.probes.finetune.protocol import FinetuneConfig, FinetuneOptimConfig, parameter_groups
from tests.torchrun import ROOT, torchrun


@pytest.fixture
def given(image_folder: Path, tmp_path: Path) -> list[str]:
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nfeatures: {transform: {resize: 36, crop: 32}}\nlrs: [0.01, 0.1]\nbatch: 4\nepochs: 2\n")
    backbone = "timm:resnet18(channels=[8,8,16,24], stem=small)"
    return ["--ckpt", backbone, "--config", str(path), "--data", f"folder:{image_folder}", "--workers", "0"]


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def run(monkeypatch: pytest.MonkeyPatch, *given: str) -> list[dict[str, Any]]:
    """Runs it; the states it saved, whose heads and weights tell more than accuracies."""
    saved: list[dict[str, Any]] = []

    def save(self: ProbeState, state: dict[str, Any]) -> None:
        model = {name: tensor.clone() for name, tensor in state["network"]["model"].items()}
        saved.append({"model": model, "head": state["network"]["head"]["weight"].clone()})
        original(self, state)

    original = ProbeState.save
    with monkeypatch.context() as patch:
        patch.setattr(ProbeState, "save", save)
        patch.setattr(sys, "argv", ["finetune.py", *given])
        main()
    return saved


def test_two_processes_equal_one(given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = run(monkeypatch, *given, "--out", str(tmp_path / "one"))
    assert len(states) == 4
    assert not torch.equal(states[1]["head"], states[3]["head"])
    script = Path(__file__).parent / "finetune_of_a_rank.py"
    done = torchrun(script, *given, "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert result(tmp_path / "two")["metrics"] == result(tmp_path / "one")["metrics"]
    other = torch.load(tmp_path / "two" / "weights.pt", weights_only=True)
    for name, tensor in states[3]["model"].items():
        torch.testing.assert_close(other["model"][name], tensor, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(other["head"], states[3]["head"], atol=1e-4, rtol=1e-4)


def test_a_killed_run_resumes_to_the_same_numbers(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run(monkeypatch, *given, "--out", str(tmp_path / "whole"))
    real, calls = training._validate, []

    def killed_in_the_fourth_epoch(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_validate", killed_in_the_fourth_epoch)
        with pytest.raises(KeyboardInterrupt):
            run(monkeypatch, *given, "--out", str(tmp_path / "cut"))
    rest = run(monkeypatch, *given, "--out", str(tmp_path / "cut"))
    assert "epoch 1 of learning rate 0.1" in capsys.readouterr().out
    assert len(rest) == 1
    assert torch.equal(rest[0]["head"], whole[3]["head"])
    found, expected = result(tmp_path / "cut"), result(tmp_path / "whole")
    assert found["metrics"] == expected["metrics"]
    # The result names the backbone that was given, not what became of it.
    assert found["checkpoint"] == expected["checkpoint"]
    assert not (tmp_path / "cut" / "unfinished.pt").exists()


def test_broken_validation_images_are_named_after_a_kill_between_training_and_result(
    given: list[str], image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(image_folder, tmp_path / "images")
    broken = sorted((tmp_path / "images/val").rglob("*.jpg"))[0]
    broken.write_bytes(b"x")
    given = [*given, "--data", f"folder:{tmp_path / 'images'}", "features.broken_share=0.5", "epochs=1", "lrs=[0.01]"]
    with monkeypatch.context() as patch:
        patch.setattr("core.result.write_result", lambda *_: sys.exit(9))
        with pytest.raises(SystemExit):
            run(monkeypatch, *given, "--out", str(tmp_path / "cut"))
    assert run(monkeypatch, *given, "features.batch=3", "--out", str(tmp_path / "cut")) == []
    (name,) = result(tmp_path / "cut")["data"]["val"]["broken"]
    assert str(broken) in name


def test_rates_fall_from_block_to_block() -> None:
    args = {"depth": 3, "embed_dim": 24, "num_heads": 2}
    model: Any = build_backbone(BackboneConfig("vit_tiny_patch16_224", args))
    head = nn.Linear(24, 5)
    groups = parameter_groups(
        model, head, FinetuneConfig(optim=FinetuneOptimConfig("sgd", weight_decay=0.1, layer_decay=0.5))
    )
    found = {id(p): (group["scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == len(list(model.parameters())) + 2
    expected = {
        "pos_embed": (0.0625, 0.0), "cls_token": (0.0625, 0.0), "patch_embed.proj.weight": (0.0625, 0.1),
        "blocks.0.attn.qkv.weight": (0.125, 0.1), "blocks.0.norm1.weight": (0.125, 0.0),
        "blocks.2.mlp.fc1.weight": (0.5, 0.1), "norm.weight": (1.0, 0.0),
    }  # fmt: skip
    parameters = dict(model.named_parameters())
    assert {name: found[id(parameters[name])] for name in expected} == expected
    assert found[id(head.weight)] == (1.0, 0.1)
    resnet = build_backbone(BackboneConfig("resnet18"))
    assert {group["scale"] for group in parameter_groups(resnet, head, FinetuneConfig())} == {1.0}
    with pytest.raises(UserError, match=r"layer_decay=0\.5.*ViT"):
        parameter_groups(resnet, head, FinetuneConfig(optim=FinetuneOptimConfig(layer_decay=0.5)))


def test_the_labelled_part(image_folder: Path, tmp_path: Path) -> None:
    images = Folder(image_folder / "train", "train")
    assert labelled_part(images, None, None, 0) is images
    third = labelled_part(images, 1 / 3, None, 5)
    assert third.name == "train (2 per class, seed 5)"
    assert np.bincount([third.label(i) for i in range(len(third))]).tolist() == [2, 2]
    with pytest.raises(UserError, match=r"share.*0\.01.*train.*\b2 classes"):
        labelled_part(images, 0.01, None, 0)


def test_a_sample_of_the_training_images_is_always_the_same(image_folder: Path) -> None:
    config = FinetuneConfig(data=DataConfig(f"folder:{image_folder}"), train_limit=8)
    found = [PROBE.open_data(config, Namespace(seed=seed))["train"] for seed in (0, 1)]
    assert [len(images) for images in found] == [8, 8]
    assert [[images.describe(i) for i in range(8)] for images in found[:1]] == [
        [images.describe(i) for i in range(8)] for images in found[1:]
    ]


def test_a_published_list_decides(tmp_path: Path, image_folder: Path) -> None:
    root = tmp_path / "train"
    for name in ("n01", "n02"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            source = image_folder / "train/cat" / f"{number}.jpg"
            (root / name / f"{name}_{number}.JPEG").write_bytes(source.read_bytes())
    images = Folder(root, "train")
    file = tmp_path / "1percent.txt"
    file.write_text("n02_1.JPEG\nn01/n01_0.JPEG\n\n")
    part = labelled_part(images, None, str(file), 0)
    assert [Path(part.describe(i)).name for i in range(len(part))] == ["n01_0.JPEG", "n02_1.JPEG"]
    assert part.name == "train (2 listed in 1percent.txt)"
    file.write_text("n02_1.JPEG\nn09_1.JPEG\n")
    with pytest.raises(UserError, match=r"\b1 of .*2 .*file_list.*train.*n09_1\.JPEG"):
        labelled_part(images, None, str(file), 0)
    with pytest.raises(UserError, match=r"file_list.*nowhere"):
        labelled_part(images, None, "nowhere", 0)


def test_head_and_backbone_learn_at_rates_of_their_own() -> None:
    config = FinetuneConfig(lrs=(0.01, 0.02), head_lrs=(0.1, 0.3))
    assert config.rates() == [(0.01, 0.1), (0.01, 0.3), (0.02, 0.1), (0.02, 0.3)]
    assert FinetuneConfig(lrs=(0.01, 0.02)).rates() == [(0.01, 0.01), (0.02, 0.02)]
    small = BackboneConfig("resnet18", {"channels": [8, 8, 16, 24]})
    backbone = Backbone(small, build_backbone(small), "a ResNet")
    context = RunContext(Processes(0, 1, torch.device("cpu")), workers=0, seed=0)
    start = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    for rates, expected in zip(config.rates()[1:3], [(0.005, 0.15), (0.01, 0.05)], strict=True):
        network = training.Network(backbone, start, 3, config, rates, context)
        network.set_rate(0.5)
        found = {id(p): group["lr"] for group in network.optimiser.param_groups for p in group["params"]}
        assert {found[id(p)] for p in network.model.parameters()} == {expected[0]}
        assert {found[id(p)] for p in network.head.parameters()} == {expected[1]}


def test_every_pair_of_rates_is_trained_with_the_small_last_batch(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["lrs=[0.01]", "head_lrs=[0.1,0.3]", "batch=5", "last_batch=keep", "report=best_epoch", "sync_norm=false"]
    run(monkeypatch, *given, "--out", str(tmp_path / "out"), *more)
    plan = capsys.readouterr().out
    assert "2 epochs of 3 steps" in plan
    assert "0.01 (head 0.1), 0.01 (head 0.3)" in plan
    metrics = result(tmp_path / "out")["metrics"]
    assert [head["input"] for head in metrics["heads"]] == ["fine-tuned, head lr 0.1", "fine-tuned, head lr 0.3"]
    assert metrics["top1"] == metrics["best_epoch_top1"]


def test_every_protocol_loads_under_its_own_name() -> None:
    files = {file.stem: file for file in ROOT.glob("configs/evaluate/finetune_*.yaml")}
    assert set(files) >= {"finetune_mulan_r50_1pct", "finetune_mulan_r50_10pct", "finetune_mulan_r50", "finetune_vit"}
    for name, file in files.items():
        config = load_config(FinetuneConfig, file)
        assert name == config.name == full_name(config, file, PROBE.performance_keys)
    one = load_config(FinetuneConfig, files["finetune_mulan_r50_1pct"])
    assert (one.share, one.lrs, one.batch, one.epochs) == (0.01, (0.005, 0.01, 0.02, 0.05, 0.1), 1024, 50)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["share=0.1", "file_list=a.txt"], "share and file_list"),
        (["train_limit=8", "share=null", "file_list=a.txt"], "train_limit and file_list"),
        (["train_limit=0"], "train_limit"),
        (["features.precision=fp16"], "features.precision"),
        (["--ckpt", "pixels"], "pixels has no weights"),
        (["lrs=[1e30]"], "epoch 1 of learning rate 1e+30"),
    ],
)
def test_mistakes(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    more: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["finetune.py", *given, "--out", str(tmp_path), *more])
    with pytest.raises(SystemExit) as stopped:
        run_entry_point(main)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
