"""Two gloo processes at half batch are one process at the whole batch, with synchronised batch norm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from core.checkpoints import load_exported
from tests.pretrain.gradients_of_a_rank import OBJECTIVES, gradients
from tests.torchrun import python, torchrun


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, torch.Tensor], float]]:
    out = tmp_path_factory.mktemp("two") / "gradients.pt"
    done = torchrun(Path(__file__).parent / "gradients_of_a_rank.py", str(out))
    assert done.returncode == 0, done.stderr
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_and_statistics_equal_one_process(
    objective: str, two_processes: dict[str, tuple[dict[str, torch.Tensor], float]]
) -> None:
    expected, loss = gradients(OBJECTIVES[objective], rank=0, world=1)
    found, found_loss = two_processes[objective]
    assert found_loss == pytest.approx(loss, rel=1e-12)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-12, msg=name)


def recipe(image_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"""
epochs: 3
batch: 4
data: {{source: "folder:{image_folder}"}}
backbone:
  name: vit_tiny_patch16_224
  args: {{img_size: 32, patch_size: 8, embed_dim: 24, depth: 2, num_heads: 2}}
views:
  global: {{count: 2, size: 32}}
  cutout: {{count: 1, size: 32, transform: cutout}}
projector: {{widths: [8]}}
predictor: {{widths: [8]}}
optim: {{name: sgd, lr: 5.0, weight_decay: 1e-4}}
schedule: {{warmup_epochs: 0}}
compute: {{sync_bn: true}}
checkpoint: {{log_steps: 1}}
"""
    )
    return path


def test_a_run_under_torchrun_equals_a_run_alone(image_folder: Path, tmp_path: Path) -> None:
    """Same images, views, losses and final weights, over 9 steps from decoding to export.

    A ViT with linear heads: batch norm over four images would blow rounding up until nothing could be compared.
    """
    config = recipe(image_folder, tmp_path)
    arguments = ["--config", str(config), "--device", "cpu", "--workers", "1"]
    alone = python("pretrain/run.py", *arguments, "--out", str(tmp_path / "alone"))
    assert alone.returncode == 0, alone.stderr
    together = torchrun(Path("pretrain/run.py"), *arguments, "--out", str(tmp_path / "together"))
    assert together.returncode == 0, together.stderr
    assert "batch       4 = 2 × 2; 3 epochs × 3 steps = 9 steps" in together.stdout
    assert "synchroni" in together.stdout
    assert "sync_bn" in alone.stdout
    curves = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("alone", "together")
    ]
    assert len(curves[0]) == 9
    # Before the first update only summation order differs: the same images, crops, colours and weights went in.
    assert curves[1][0] == pytest.approx(curves[0][0], rel=1e-6)
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    assert len(set(curves[0])) == 9
    weights = [
        load_exported(tmp_path / name / "backbone.safetensors").model.state_dict() for name in ("alone", "together")
    ]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-5, msg=name)
