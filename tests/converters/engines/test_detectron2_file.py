"""converters/detectron2_file.py: names and format of Detectron2's files, and a reader that runs nothing of them."""

from __future__ import annotations

import builtins
import collections
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from converters.detectron2_file import read_detectron2, write_detectron2
from converters.key_maps.detectron2 import RESNET
from converters.open import open_backbone, open_with_report
from core.errors import UserError

_RECONSTRUCT = np.zeros(1).__reduce__()[0]


@pytest.mark.parametrize(
    ("timm_name", "detectron2_name"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_mean", "stem.conv1.norm.running_mean"),
        ("layer1.0.conv1.weight", "res2.0.conv1.weight"),
        ("layer1.0.bn3.bias", "res2.0.conv3.norm.bias"),
        ("layer4.11.bn2.num_batches_tracked", "res5.11.conv2.norm.num_batches_tracked"),
        ("layer2.0.downsample.0.weight", "res3.0.shortcut.weight"),
        ("layer3.0.downsample.1.running_var", "res4.0.shortcut.norm.running_var"),
        ("fc.weight", None),
        ("layer1.0.se.fc1.weight", None),
        ("conv1.0.weight", None),
    ],
)
def test_names(timm_name: str, detectron2_name: str | None) -> None:
    assert RESNET.from_timm(timm_name) == detectron2_name


def test_a_resnet50_has_318_names_and_they_differ() -> None:
    names = [RESNET.from_timm(name) for name in timm.create_model("resnet50", num_classes=0).state_dict()]
    assert len(set(names)) == 318
    assert None not in names


def test_the_file_is_what_detectron2_wants_and_names_nothing_that_moves(tmp_path: Path) -> None:
    tensors = {"stem.conv1.weight": torch.randn(4, 3, 7, 7), "stem.conv1.norm.num_batches_tracked": torch.tensor(5)}
    write_detectron2(tmp_path / "x.pkl", tensors)
    content = (tmp_path / "x.pkl").read_bytes()
    document = pickle.loads(content)
    assert list(document) == ["model", "__author__", "matching_heuristics"]
    assert document["matching_heuristics"] is True
    assert document["model"]["stem.conv1.weight"].dtype == np.float32
    assert document["model"]["stem.conv1.weight"].flags.writeable
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(document["model"][name], tensor.numpy())
    strings = {argument for _, argument, _ in pickletools.genops(content) if isinstance(argument, str)}
    assert not any("multiarray" in text or "_core" in text for text in strings)
    read = read_detectron2(tmp_path / "x.pkl")["model"]
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_pickled_by_numpy_are_read(tmp_path: Path, protocol: int) -> None:
    arrays = {
        "c": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "big": np.arange(5, dtype=">f4"),
        "half": np.arange(5, dtype=np.float16),
        "none": np.zeros((0, 3), dtype=np.float32),
        "scalar": np.array(7),
        "flags": np.array([True, False]),
        "bytes": np.arange(200, dtype=np.uint8),
    }
    document = {"model": collections.OrderedDict(arrays), "best": np.float64(1.5), "note": "é", "list": [1, (2, None)]}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(document, protocol))
    read = read_detectron2(tmp_path / "x.pkl")
    for name, array in arrays.items():
        native = array.astype(array.dtype.newbyteorder("="))
        assert read["model"][name].dtype == torch.from_numpy(native.copy()).dtype
        np.testing.assert_array_equal(read["model"][name].numpy(), native)
    assert read["best"] == 1.5
    assert read["note"] == "é"
    assert read["list"] == [1, (2, None)]


class _Calls:
    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {}",)),
        (builtins.eval, ("open({!r}, 'w')",)),
        (builtins.exec, ("open({!r}, 'w')",)),
        (getattr, (np.ndarray, "tofile")),
        (np.load, ("{}",)),
        (np.fromfile, ("{}",)),
        (pickle.loads, (b"",)),
        (torch.load, ("{}",)),
    ],
)
def test_everything_but_arrays_is_refused_unrun(
    tmp_path: Path, function: Any, arguments: tuple[Any, ...], protocol: int
) -> None:
    witness = tmp_path / "ran"
    filled = [part.format(str(witness)) if isinstance(part, str) else part for part in arguments]
    document = {"model": {"stem.conv1.weight": np.zeros(3)}, "x": _Calls(function, *filled)}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(document, protocol))
    with pytest.raises(UserError, match=r"x\.pkl.*\bexecut") as caught:
        read_detectron2(tmp_path / "x.pkl")
    assert not witness.exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        np.array([1, "a", None], dtype=object),
        np.array(["abc"]),
        np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]),
        _Calls(np.ndarray, (2,), "O", b"x" * 16),
        _Calls(np.ndarray, (10**9,), "<f4", b"x" * 16),
        _Calls(bytearray, 10**12),
        _Calls(
            _RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (1,), _Calls(np.dtype, "f4", state=(3, 5)), False, b"xxxx")
        ),
        _Calls(_RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (9,), np.dtype("f4"), False, b"xxxx")),
        _Calls(_RECONSTRUCT, np.ndarray, (0,), b"b"),
    ],
)
def test_arrays_of_other_than_numbers_and_crafted_ones_are_refused(tmp_path: Path, value: Any) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": {"a": value, "b": np.zeros(2)}}))
    with pytest.raises(UserError, match=r"x\.pkl"):
        read_detectron2(tmp_path / "x.pkl")


def test_a_file_cannot_change_the_functions_it_may_call(tmp_path: Path) -> None:
    # GLOBAL numpy ndarray, an empty dictionary, BUILD: sets attributes of whatever stands for ndarray.
    (tmp_path / "x.pkl").write_bytes(b"cnumpy\nndarray\n}b.")
    with pytest.raises(UserError, match=r"x\.pkl.*function"):
        read_detectron2(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    "content", [b"", b"garbage", pickle.dumps({"model": np.zeros(100)})[:60], b"Pa\n.", b"\x82\x01."]
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.pkl") as caught:
        read_detectron2(tmp_path / "x.pkl")
    assert "\n" not in str(caught.value)


def test_a_document_that_is_not_a_dictionary_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([1]))
    with pytest.raises(UserError, match=r"x\.pkl.*\blist\b"):
        read_detectron2(tmp_path / "x.pkl")


def test_a_trained_detector_gives_its_backbone(tmp_path: Path) -> None:
    source = timm.create_model("resnet18", num_classes=0).eval()
    state = {
        f"backbone.bottom_up.{RESNET.from_timm(name)}": tensor
        for name, tensor in source.state_dict().items()
        if not name.endswith("num_batches_tracked")  # its frozen batch norm has none
    }
    state |= {"backbone.fpn_lateral2.weight": torch.zeros(2), "roi_heads.box_head.fc1.weight": torch.zeros(2)}
    torch.save({"model": state, "optimizer": {"state": {}}, "iteration": 89999}, tmp_path / "model_final.pth")
    backbone = open_backbone(str(tmp_path / "model_final.pth"))
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(backbone.model.forward_features(images), source.forward_features(images))
    assert "STRIDE_IN_1X1 False) assumed" in backbone.source
    assert backbone.origin["family"].startswith("Detectron2")


def _as_detectron2(source: torch.nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return {f"{prefix}{RESNET.from_timm(name)}": tensor for name, tensor in source.state_dict().items()}


def test_a_c4_detector_gives_the_whole_backbone(tmp_path: Path) -> None:
    """Its last stage stands in the box head, and behind it the norm that the extra-norm head adds."""
    source = timm.create_model("resnet18", num_classes=0).eval()
    state = {
        (f"roi_heads.{name}" if name.startswith("res5") else f"backbone.{name}"): tensor
        for name, tensor in _as_detectron2(source).items()
    }
    state |= {"roi_heads.res5.norm.weight": torch.ones(512), "roi_heads.box_predictor.cls_score.weight": torch.ones(2)}
    torch.save({"model": state}, tmp_path / "c4.pth")
    backbone, table = open_with_report(str(tmp_path / "c4.pth"))
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(backbone.model.forward_features(images), source.forward_features(images))
    assert ("model.roi_heads.res5.0.conv1.weight", "layer4.0.conv1.weight") in table.renamed
    assert "model.roi_heads.res5.norm.weight" in dict(table.dropped)


def test_what_public_scripts_put_behind_the_stem_is_a_head(tmp_path: Path) -> None:
    source = timm.create_model("resnet18", num_classes=0).eval()
    state = _as_detectron2(source) | {f"stem.fc.{layer}.weight": torch.ones(2, 2) for layer in (0, 2)}
    state |= {"stem.predictors.global.0.weight": torch.ones(2)}
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    document = {"model": arrays, "__author__": "x", "matching_heuristics": True}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(document))
    backbone, table = open_with_report(str(tmp_path / "x.pkl"))
    assert torch.equal(backbone.model.conv1.weight, source.conv1.weight)
    assert dict(table.dropped) == {
        "model.stem.fc.0.weight": "head or projector on top of the backbone",
        "model.stem.fc.2.weight": "head or projector on top of the backbone",
        "model.stem.predictors.global.0.weight": "predictor",
    }
