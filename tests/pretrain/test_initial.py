"""pretrain/initial.py: both networks start from a checkpoint's backbone, and the run says so."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from core.backbones import BackboneConfig, build_backbone
from core.checkpoints import export_backbone, read_safetensors, tensors_digest
from core.data.open import open_images
from core.errors import UserError
from pretrain.initial import open_initial
from pretrain.plan import plan
from pretrain.trainer import train
from tests.pretrain.tiny_run import ALONE, VIT, recipe

GIVEN = BackboneConfig("vit_tiny_patch16_224", VIT | {"depth": 1}, mean=(0.1, 0.2, 0.3), pos_resize="dinov2")


def test_a_run_continues_from_a_checkpoint(tmp_path: Path, image_folder: Path) -> None:
    torch.manual_seed(7)
    model = build_backbone(GIVEN)
    export_backbone(tmp_path / "given.safetensors", model, GIVEN, {"network": "online"})
    config = recipe(image_folder, f"init={tmp_path / 'given.safetensors'}", "optim.lr=1e-12", "epochs=2")
    config, start = open_initial(config, "online")
    assert start is not None
    assert config.backbone == GIVEN  # the recipe's has two blocks
    images = open_images(config.data, "pretrain", config.seed)
    assert "given.safetensors" in plan(config, images, ALONE, "runs/x", "none", start)
    train(config, tmp_path / "run", images, ALONE, 0, None, start)
    for name in ("backbone", "backbone_target"):
        tensors, header = read_safetensors(tmp_path / "run" / f"{name}.safetensors")
        torch.testing.assert_close(tensors, dict(model.state_dict()), rtol=0, atol=1e-6)
        assert "given.safetensors" in header["init"]
        assert header["init_sha256"] == tensors_digest(model.state_dict())


def test_without_a_checkpoint_nothing_changes_and_pixels_are_refused(image_folder: Path) -> None:
    config = recipe(image_folder)
    assert open_initial(config, "online") == (config, None)
    with pytest.raises(UserError, match="pixels"):
        open_initial(dataclasses.replace(config, init="pixels"), "online")
