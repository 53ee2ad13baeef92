"""converters/open.py: damaged, foreign and hostile files are refused by name."""

from __future__ import annotations

import builtins
import os
import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from converters.open import open_backbone
from core.backbones import BackboneConfig
from core.checkpoints import read_tensors
from core.errors import UserError
from core.untrusted.stand_ins import Placeholder

NARROW = BackboneConfig("resnet18", {"channels": [8, 16, 24, 32]}, stem="small")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"layers.0.weight": torch.zeros(2)}, r"ResNet or ViT.*layers\.0\.weight"),
        ({"epoch": 3}, r"keys.*\bepoch\b"),
        ([torch.zeros(2)], r"\blist\b.*dictionary"),
        (torch.zeros(2), r"\bTensor\b.*dictionary"),
        ({"conv1.weight": torch.zeros(2), "layer1.0.conv1.weight": torch.zeros(2)}, "stem"),
        (
            {"conv1.weight": torch.zeros(64, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(2)},
            r"layer1\.0\.conv2\.weight.*missing",
        ),
        (
            {
                "conv1.weight": torch.zeros(64, 3, 7, 7),
                "layer1.0.conv1.weight": torch.zeros(2),
                "layer1.0.conv2.weight": torch.zeros(()),
            },
            "shapes",
        ),
        (
            {
                f"{prefix}.{name}": torch.zeros(2)
                for prefix in ("left", "right")
                for name in ("conv1.weight", "layer1.0.conv1.weight")
            },
            "several networks",
        ),
        (
            {
                key: {"conv1.weight": torch.zeros(2), "layer1.0.conv1.weight": torch.zeros(2)}
                for key in ("model", "state_dict")
            },
            "twice",
        ),
    ],
)
def test_unknown_contents(tmp_path: Path, document: Any, message: str) -> None:
    torch.save(document, tmp_path / "file.pth")
    with pytest.raises(UserError, match=message) as caught:
        open_backbone(str(tmp_path / "file.pth"))
    assert "\n" not in str(caught.value)


def test_diverged_weights_are_refused(tmp_path: Path) -> None:
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"finite.*layer2\.0\.conv1\.weight"):
        open_backbone(str(tmp_path / "file.pth"))


@pytest.mark.parametrize("name", ["cut.pth", "text.pth", "empty.pth", "legacy.pth", "cut.safetensors"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    whole = tmp_path / "whole.pth"
    torch.save(timm.create_model("resnet18", num_classes=0).state_dict(), whole)
    contents = {
        "cut": whole.read_bytes()[:100_000],
        "text": b"not a checkpoint",
        "empty": b"",
        "legacy": b"\x80\x02r\x00",  # torch's format before 1.6, cut in the middle of a number
    }
    (tmp_path / name).write_bytes(contents[name.split(".")[0]])
    with pytest.raises(UserError, match=name) as caught:
        open_backbone(str(tmp_path / name))
    assert "\n" not in str(caught.value)


class _Hostile:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("function", [os.system, builtins.eval, builtins.exec, pickle.loads])
def test_code_in_a_file_is_refused_unrun(tmp_path: Path, function: Any) -> None:
    witness = tmp_path / "ran"
    state = timm.create_model("resnet18", num_classes=0).state_dict()
    code = f"touch {witness}" if function is os.system else f"open({str(witness)!r}, 'w')"
    torch.save({"state_dict": state, "epoch": _Hostile(function, code)}, tmp_path / "file.pth")
    with pytest.raises(UserError, match=r"file\.pth"):
        open_backbone(str(tmp_path / "file.pth"))
    assert not witness.exists()


def test_getattr_in_a_file_reaches_nothing(tmp_path: Path) -> None:
    # Log buffers refer to methods by `getattr`, so it is let through as a stand-in: no chain may come out of it.
    reached = _Hostile(getattr, Namespace, "__init__")
    torch.save([reached, _Hostile(getattr, reached, "__globals__")], tmp_path / "file.pth")
    assert [type(item) for item in read_tensors(tmp_path / "file.pth")] == [Placeholder, Placeholder]


def test_bookkeeping_of_other_projects_does_not_stop_a_file(tmp_path: Path) -> None:
    document = {
        "state_dict": timm.create_model("resnet18", num_classes=0).state_dict(),
        "args": Namespace(arch="resnet18", out=tmp_path),
        "best": np.float64(71.5),
        "history": np.arange(3.0),
        "epoch": 12,
    }
    torch.save(document, tmp_path / "file.pth")
    assert open_backbone(str(tmp_path / "file.pth")).origin["epoch"] == "12"
