"""Weights and kept state that are damaged or of the wrong kind: found, reported, and never half loaded."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters.open import open_backbone
from core.backbones import BackboneConfig, build_backbone
from core.checkpoints import export_backbone, load_exported, read_tensors
from core.coverage import check_plain, load_completely
from core.distributed import Processes
from core.errors import UserError
from core.untrusted.zip_archives import find_fault
from evaluate.common.resumable import ProbeState, copy_exactly
from evaluate.probes.accuracy import scores_of

NARROW = BackboneConfig("resnet18", {"channels": [8, 16, 24, 32]})
ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: tensor.clone() for name, tensor in build_backbone(NARROW).state_dict().items()}


def test_a_flipped_bit_of_a_foreign_tensor_is_found_by_its_checksum(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "a.pth"
    torch.save(state, path)
    whole = path.read_bytes()
    at = whole.index(state["layer1.0.conv1.weight"].numpy().tobytes()) + 100
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    torch.load(path, weights_only=True)  # torch itself doesn't notice
    with pytest.raises(UserError, match=r"a\.pth.*a/data/\d+.*checksum|a\.pth.*checksum.*a/data/\d+"):
        open_backbone(str(path))
    path.write_bytes(whole)
    assert open_backbone(str(path)).config == NARROW


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(3)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_tensors(tmp_path / "a.pth")["w"].tolist() == [1, 1, 1]
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert {entry.CRC for entry in archive.infolist()} == {0}


def test_a_changed_header_of_an_export_is_found_and_old_exports_are_read(
    tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "b.safetensors"
    export_backbone(path, state, NARROW, {"epoch": 3})
    whole = path.read_bytes()
    assert whole.count(b"0.485") == 1
    path.write_bytes(whole.replace(b"0.485", b"0.475"))  # another mean: every feature would be a little wrong
    with pytest.raises(UserError, match=r"b\.safetensors.*header.*sha256"):
        load_exported(path)
    for key in (b'"header_sha256"', b"ssl-transfer/backbone/2", b'"backbone"', b'"sha256"'):
        assert whole.count(key) == 1
        path.write_bytes(whole.replace(key, key.replace(b"a", b"e")))
        with pytest.raises(UserError, match="damaged"):
            open_backbone(str(path))
    path.write_bytes(whole.replace(b"ssl-transfer/backbone/2", b"ssl-transfer/backbone/1"))
    assert load_exported(path).origin["epoch"] == "3"


@pytest.mark.parametrize("settings", [None, "[" * 5000, "nonsense", "[]", '{"name": 3}', '{"nam": "resnet18"}'])
def test_an_export_that_names_no_backbone(settings: str | None, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from core.checkpoints import tensors_digest

    tensors = {"w": torch.ones(2)}
    header = {"format": "ssl-transfer/backbone/1", "sha256": tensors_digest(tensors)}
    save_file(tensors, tmp_path / "b.safetensors", metadata=header | ({"backbone": settings} if settings else {}))
    with pytest.raises(UserError, match=r"b\.safetensors"):
        load_exported(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: (t * 100).to(torch.int8), "int8.*float32"),
        (lambda t: t.to(torch.complex64), "complex64.*float32"),
        (lambda t: t.double().fill_(1e300), r"finite.*conv1\.weight"),
        (lambda t: t.clone().fill_(float("nan")), r"finite.*conv1\.weight"),
        (lambda t: t[:4], r"a\.pth.*--arch"),
    ],
)
def test_weights_of_another_kind_are_refused(
    change: Any, message: str, tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    torch.save({**state, "conv1.weight": change(state["conv1.weight"])}, tmp_path / "a.pth")
    arch = "resnet18(channels=[8, 16, 24, 32])"
    with pytest.raises(UserError, match=message):
        open_backbone(str(tmp_path / "a.pth"), arch=arch)


def test_half_and_double_precision_are_taken(state: dict[str, torch.Tensor]) -> None:
    model = build_backbone(NARROW)
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        load_completely(model, {name: t.to(kind) if t.is_floating_point() else t for name, t in state.items()}, "x")
        assert torch.equal(model.state_dict()["conv1.weight"], state["conv1.weight"].to(kind).float())


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.eye(3).to_sparse(), "tensor"),
        (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "tensor"),
        (torch.ones(3, device="meta"), "tensor"),
        ("text", r"\bstr\b.*\bw\b"),
        (torch.ones(2).expand(1000, 2), r"\b8[,0]"),
        (torch.ones(10).as_strided((8, 3), (1, 1)), r"\b40\b"),
    ],
)
def test_only_plain_tensors_are_taken(tensor: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_plain({"w": tensor}, "x")


def test_slices_and_transposed_tensors_are_plain() -> None:
    whole = torch.ones(4, 6)
    check_plain({"a": whole[:2], "b": whole[2:], "c": torch.ones(3, 5).T}, "x")


@pytest.mark.parametrize(
    "saved", [torch.ones(1), torch.ones(3, 1), torch.full((3, 2), float("inf")), None, [1.0], torch.ones(2, 3)]
)
def test_kept_state_is_never_repeated_to_fill_its_place(saved: Any) -> None:
    mine = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"\bw\b.*\[3, 2\]"):
        copy_exactly(mine, saved, "w")
    assert not mine.any()


@pytest.mark.parametrize(
    "row", [[[1.0], [1.0]], [[1.0], [1.0], [101.0]], [[1.0], [], [1.0]], [["x"]] * 3, [[1, 2]] * 3]
)
def test_scores_of_a_damaged_state(row: Any) -> None:
    with pytest.raises(ValueError, match=r"no accuracies|could not convert"):
        scores_of(row, 1)


@pytest.mark.parametrize("seconds", [None, "x", -1.0, float("nan"), 1e300])
def test_an_unfinished_probe_without_its_wall_time(seconds: Any, tmp_path: Path) -> None:
    torch.save({"identity": "me", "seconds": seconds}, tmp_path / "unfinished.pt")
    unfinished = ProbeState(tmp_path / "unfinished.pt", "me", ALONE)
    with pytest.raises(UserError, match=r"unfinished\.pt.*damaged.*wall time"):
        unfinished.load()
    with pytest.raises(UserError, match=r"unfinished\.pt.*damaged.*'rows'"), unfinished.restoring():
        {}["rows"]


def test_faults_of_archives(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.arange(5))
    assert find_fault(tmp_path / "a.npz") == ""
    np.savez_compressed(tmp_path / "b.npz", a=np.arange(5))
    assert "compressed" in find_fault(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_text(json.dumps({}))
    assert find_fault(tmp_path / "c.npz") == "File is not a zip file"
