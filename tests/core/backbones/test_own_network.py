"""core/backbones/own_network.py: modules of the user's own, by the shape of what they give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from converters.open import open_backbone
from core.backbones import BackboneConfig, build_backbone, family_of, feature_width, pooled_features
from core.backbones.own_network import grid_of
from core.errors import UserError

CODE = """
import torch
from torch import nn
class Net(nn.Module):
    image_size = 32
    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(3, 5, 8, stride=8)
    def forward(self, x):
        x = self.conv(x)
        if self.kind == "map":
            return x
        x = x.flatten(2).transpose(1, 2)
        first = x.mean(dim=1, keepdim=True) + 1
        return {"vector": x.mean(1), "patches": x, "tokens": torch.cat([first, x], 1), "list": [x]}[self.kind]
"""
CODE += "\n".join(f"def {kind}():\n    return Net('{kind}')" for kind in ("map", "vector", "patches", "tokens", "list"))
CODE += "\ndef broken():\n    raise KeyError('gone')\ndef number():\n    return 3\n"
IMAGES = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(CODE, encoding="utf-8")
    return tmp_path / "net.py"


@pytest.mark.parametrize("kind", ["map", "vector", "patches", "tokens"])
def test_each_shape_gives_a_vector_and_where_there_are_positions_a_map(file: Path, kind: str) -> None:
    backbone = open_backbone(f"module:{file}:{kind}")
    model, family = backbone.model, family_of(backbone.model)
    with torch.inference_mode():
        convolved = model.get_submodule("module.conv")(IMAGES)
        mean = convolved.mean(dim=(2, 3))
        expected = mean + 1 if kind == "tokens" else mean  # the first token
        torch.testing.assert_close(pooled_features(model, IMAGES), expected)
        assert feature_width(model) == 5
        if kind == "vector":
            with pytest.raises(UserError, match="vector"):
                family.maps(model, IMAGES)
            return
        [(stride, found)] = family.maps(model, IMAGES)
    assert stride == 8
    torch.testing.assert_close(found, convolved)
    if kind == "tokens":
        torch.testing.assert_close(pooled_features(model, IMAGES, "patches"), mean)


def test_bad_functions(file: Path) -> None:
    for name, message in (("list", "list"), ("broken", "gone"), ("number", "int"), ("missing", "missing")):
        with pytest.raises(UserError, match=message):
            open_backbone(f"module:{file}:{name}")
    with pytest.raises(UserError, match=r"nowhere\.py"):
        open_backbone("module:nowhere.py:map")
    with pytest.raises(UserError, match="FUNCTION"):
        open_backbone(f"module:{file}")


def test_a_name_in_a_file_runs_no_code(file: Path) -> None:
    with pytest.raises(UserError, match="module"):
        build_backbone(BackboneConfig("module", {"file": str(file), "function": "map"}))


def test_ambiguous_grids_are_refused() -> None:
    assert grid_of(197, (224, 224)) == (1, (14, 14))
    with pytest.raises(UserError, match="grid"):
        grid_of(150, (224, 224))
    with pytest.raises(UserError, match=" or "):
        grid_of(9, (24, 24))  # 9 patches of 8 px, or 4 of 12 px and 5 more tokens
