"""core/checkpoints.py and core/coverage.py: nothing partial, nothing executed, nothing lost."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from core.backbones import BackboneConfig, build_backbone
from core.checkpoints import (
    export_backbone,
    load_exported,
    load_training_state,
    read_safetensors,
    read_tensors,
    save_training_state,
    tensors_digest,
    training_states,
)
from core.compute.shapes import nothing_drawn
from core.coverage import build_and_load, compare, load_completely
from core.errors import UserError
from core.files.atomic_file import write_atomically

NARROW = BackboneConfig("resnet18", {"channels": [8, 16, 24, 32]}, mean=(0.1, 0.2, 0.3))


class Attack:
    """Runs code when unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_exported_backbone_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model = build_backbone(NARROW)
    export_backbone(tmp_path / "b.safetensors", model, NARROW, {"method": "byol", "epoch": 3})
    backbone = load_exported(tmp_path / "b.safetensors")
    assert backbone.config == NARROW
    assert backbone.origin["method"] == "byol"
    assert backbone.origin["epoch"] == "3"
    assert tensors_digest(backbone.model.state_dict()) == tensors_digest(model.state_dict())
    assert read_safetensors(tmp_path / "b.safetensors")[1]["channel_order"] == "RGB"


def test_a_changed_tensor_is_found_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    export_backbone(path, build_backbone(NARROW), NARROW, {})
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"b\.safetensors.*sha256"):
        load_exported(path)


def test_training_states_keep_the_newest_two_and_resume_as_saved(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save_training_state(tmp_path, step, {"online": {"w": torch.full((2,), float(step))}})
    assert [path.name for path in training_states(tmp_path)] == ["step_000000002.pt", "step_000000010.pt"]
    state = load_training_state(training_states(tmp_path)[-1])
    assert state["step"] == 10
    assert state["online"]["w"].tolist() == [10.0, 10.0]
    torch.load(training_states(tmp_path)[-1], weights_only=True)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(partial: Path) -> None:
        partial.write_text("new")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=rf"{path}.*No space left"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(1)}, "x": Attack(tmp_path / "pwned")}, tmp_path / "attack.pth")
    with pytest.raises(UserError, match=r"attack\.pth.*tensors"):
        read_tensors(tmp_path / "attack.pth")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 not a zip", b"\x80\x02}q\x00."[:4]])
def test_unreadable_files_are_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.pth") as caught:
        read_tensors(tmp_path / "bad.pth")
    assert "\n" not in str(caught.value)


def test_truncated_checkpoint(tmp_path: Path) -> None:
    torch.save({"w": torch.randn(1000)}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"half\.pth"):
        read_tensors(tmp_path / "half.pth")
    with pytest.raises(UserError, match=r"none\.pth"):
        read_tensors(tmp_path / "none.pth")


def test_coverage_names_every_kind_of_misfit() -> None:
    model = torch.nn.Linear(2, 3)
    coverage = compare(model, {"weight": torch.zeros(3, 2), "bias": torch.zeros(4), "extra": torch.zeros(1)})
    assert coverage.matched == ("weight",)
    assert coverage.unexpected == ("extra",)
    assert coverage.misshaped == ("bias: [4], not [3]",)
    assert coverage.summary().startswith("1 matched, 0 missing, 1 unexpected, 1 mis-shaped")


@pytest.mark.parametrize(
    "state",
    [
        {"weight": torch.ones(3, 2)},
        {"weight": torch.ones(3, 2), "bias": torch.ones(3), "fc": torch.ones(1)},
        {"weight": torch.ones(2, 3), "bias": torch.ones(3)},
        {"weight": torch.full((3, 2), float("nan")), "bias": torch.ones(3)},
    ],
)
def test_partial_or_diverged_weights_change_nothing(state: dict[str, torch.Tensor]) -> None:
    model = torch.nn.Linear(2, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=r"w\.pth"):
        load_completely(model, state, "w.pth")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_holds_is_not(tmp_path: Path) -> None:
    forsaken, held, of_another = (tmp_path / name for name in (".a.1.partial", ".a.2.partial", ".b.1.partial"))
    for path in (forsaken, held, of_another):
        path.write_text("half")
    with held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomically(tmp_path / "a", lambda partial: partial.write_text("whole"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.2.partial", ".b.1.partial", "a"]
    assert (tmp_path / "a").read_text() == "whole"


def test_a_full_disk_is_reported_for_exports_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: IoError(Os { code: 28, message: No space left on device })")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(UserError, match=r"b\.safetensors.*No space left on device"):
        export_backbone(tmp_path / "b.safetensors", build_backbone(NARROW), NARROW, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet18", {"channels": [8, 16, 24, 32]}),
        ("swin_tiny_patch4_window7_224", {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4]}),
        ("vit_small_patch16_dinov3", {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 64}),
    ],
)
def test_a_network_to_be_loaded_draws_no_weights_and_has_the_buffers_that_no_file_holds(
    name: str, arguments: Any
) -> None:
    config = BackboneConfig(name, arguments)
    drawn, state = build_backbone(config), torch.random.get_rng_state()
    loaded, _ = build_and_load(config, drawn.state_dict(), "x")
    own, buffers = drawn.state_dict(), dict(drawn.named_buffers())
    if name == "resnet18":
        assert torch.equal(torch.random.get_rng_state(), state)
    else:
        assert any(key not in own for key in buffers)
    assert all(torch.equal(buffer, dict(loaded.named_buffers())[key]) for key, buffer in buffers.items())
    assert all(torch.equal(tensor, loaded.state_dict()[key]) for key, tensor in own.items())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("std", [0.02, 8.0])
def test_a_truncated_normal_that_is_not_drawn_ends(std: float) -> None:
    """torch redraws until all values fit: in the wide case by rejection from a uniform distribution."""
    values = torch.full((64,), 1e9)
    state = torch.get_rng_state()
    with nothing_drawn():
        torch.nn.init.trunc_normal_(values, std=std)
    assert torch.equal(values, torch.zeros(64))
    assert torch.equal(torch.get_rng_state(), state)
