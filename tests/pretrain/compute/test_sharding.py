"""`compute.shard`: a ViT over two processes has the losses of a whole one, and resumes on another number of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from core.checkpoints import load_exported, training_states
from core.config import load_config
from core.data.open import open_images
from core.errors import UserError
from pretrain.config import PretrainConfig
from pretrain.plan import check_sizes
from pretrain.trainer import train
from tests.pretrain.tiny_run import ALONE
from tests.torchrun import torchrun

ARGS = "{img_size: 32, patch_size: 8, embed_dim: 24, depth: 3, num_heads: 2}"
RECIPE = [
    "epochs=3", "batch=4", "backbone.name=vit_tiny_patch16_224", f"backbone.args={ARGS}",
    "views={global: {count: 2, size: 32}, cutout: {count: 1, size: 32, transform: cutout}}",
    "projector.widths=[8]", "predictor.widths=[8]", "schedule.warmup_epochs=0", "checkpoint.log_steps=1",
    "optim={name: adamw, lr: 0.5, weight_decay: 0.1, clip: 0.2}",
]  # fmt: skip
SHARDED = ["compute.shard=fsdp2", "compute.checkpointing=true"]


def run(images: Path, out: Path, processes: int, *overrides: str) -> list[dict[str, float]]:
    """Lines of metrics."""
    recipe = out.parent / "recipe.yaml"
    recipe.write_text("{}\n")
    done = torchrun(
        Path("pretrain/run.py"), "--config", str(recipe), "--data", f"folder:{images}", "--device", "cpu", "--workers",
        "0", "--out", str(out), *RECIPE, *overrides, processes=processes,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return metrics(out)


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out: Path, name: str = "backbone") -> dict[str, torch.Tensor]:
    return load_exported(out / f"{name}.safetensors").model.state_dict()


def assert_near(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(found) == len(expected) == 9
    for a, b in zip(found, expected, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-3)
        assert a["loss_max"] == pytest.approx(a["loss"], rel=1e-6)  # a line has one step
        assert a["gradient_norm_max"] == a["gradient_norm"]


def test_losses_exports_and_a_resume_on_one_process(image_folder: Path, tmp_path: Path) -> None:
    config = load_config(PretrainConfig, None, [*RECIPE, f"data.source=folder:{image_folder}"])
    train(config, tmp_path / "whole", open_images(config.data, "pretrain", 0), ALONE, workers=0)
    whole = metrics(tmp_path / "whole")
    sharded = run(image_folder, tmp_path / "sharded", 2, *SHARDED)
    assert_near(sharded, whole)
    assert len({line["loss"] for line in sharded}) == 9
    for name in ("backbone", "backbone_target"):
        expected = weights(tmp_path / "whole", name)
        for key, tensor in weights(tmp_path / "sharded", name).items():
            torch.testing.assert_close(tensor, expected[key], rtol=1e-3, atol=2e-4, msg=key)
    out = tmp_path / "sharded"
    states = training_states(out / "checkpoints")
    assert [path.stem for path in states] == ["step_000000006", "step_000000009"]
    assert all(len(list(path.with_suffix(".shards").glob("*.safetensors"))) == 2 for path in states)
    shutil.rmtree(states[-1].with_suffix(".shards"))
    states[-1].unlink()
    assert_near(run(image_folder, out, 1, *SHARDED), whole)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_blocks_compiled_alone_have_the_losses_of_eager_ones(image_folder: Path, tmp_path: Path) -> None:
    few = ["epochs=1", "backbone.args.depth=1"]
    config = load_config(PretrainConfig, None, [*RECIPE, f"data.source=folder:{image_folder}", *few])
    train(config, tmp_path / "whole", open_images(config.data, "pretrain", 0), ALONE, workers=0)
    compiled = run(image_folder, tmp_path / "compiled", 1, *SHARDED, "compute.compile=true", *few)
    whole = metrics(tmp_path / "whole")
    assert len(compiled) == len(whole) == 3
    assert compiled[0]["loss"] == pytest.approx(whole[0]["loss"], rel=1e-5)
    assert compiled[0]["gradient_norm"] == pytest.approx(whole[0]["gradient_norm"], rel=1e-4)
    assert compiled[-1]["loss"] == pytest.approx(whole[-1]["loss"], rel=1e-2)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["optim.name=lars"], "optim.name"),
        (["compute.precision=fp16"], "compute.precision"),
        (["monitor.every_epochs=1"], "monitor.every_epochs"),
        (["backbone={name: resnet18}"], "compute.shard"),
        ([], "torchrun"),
    ],
)
def test_what_does_not_combine(overrides: list[str], key: str) -> None:
    with pytest.raises(UserError, match=key):
        check_sizes(load_config(PretrainConfig, None, [*RECIPE, "compute.shard=fsdp2", *overrides]))
