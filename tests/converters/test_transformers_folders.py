"""Folders of transformers' Hiera, RegNetX and data2vec: the features of its own classes, mutated settings refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

from converters.open import open_backbone
from core.backbones import family_of
from core.errors import UserError
from tests.kinds.base import measure
from tests.kinds.of_transformers import KINDS

BY_NAME = {kind.name.removeprefix("transformers: "): kind for kind in KINDS}


@pytest.mark.parametrize("name", ["Hiera with classifier", "RegNetX", "data2vec", "data2vec with classifier"])
def test_features_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    outcome = measure(BY_NAME[name], tmp_path / "kind")
    assert outcome.difference is not None, outcome.opens_as
    assert outcome.difference <= 1e-6


def test_a_bottleneck_resnet_isnt_taken_for_a_regnet(tmp_path: Path) -> None:
    """transformers gives both the same names."""
    assert measure(BY_NAME["ResNet"], tmp_path / "resnet").opens_as.startswith("resnet50")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {name: tmp_path_factory.mktemp(name) for name in ("Hiera", "RegNetX", "data2vec")}
    for name, folder in found.items():
        BY_NAME[name].make(folder)
    return found


@pytest.mark.parametrize(
    ("name", "changes", "key"),
    [
        ("Hiera", {"num_heads": [1, 2, 2, 4]}, "num_heads"),
        ("Hiera", {"num_heads": [1, 2]}, "num_heads"),
        ("Hiera", {"depths": [1, 1, 1, 1]}, r"5 blocks.*\[1, 1, 1, 1\]"),
        ("Hiera", {"depths": "deep"}, "num_heads"),
        ("Hiera", {"embed_dim": 24}, "does not cover"),
        ("Hiera", {"masked_unit_size": [100000, 8]}, "sizes that no network has"),
        ("Hiera", {"hidden_act": "relu"}, "relu"),
        ("RegNetX", {"hidden_act": "silu"}, "silu"),
        ("data2vec", {"hidden_act": "mish"}, "hidden_act"),
        ("data2vec", {"hidden_size": 24}, "hidden_size"),
    ],
)
def test_settings_without_a_twin_are_refused(folders: dict[str, Path], name: str, changes: Any, key: str) -> None:
    file = folders[name] / "config.json"
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | changes))
    try:
        with pytest.raises(UserError, match=key):
            open_backbone(str(folders[name]))
    finally:
        file.write_text(before)


def test_a_hiera_says_the_size_of_its_images(folders: dict[str, Path]) -> None:
    model = open_backbone(str(folders["Hiera"])).model
    assert family_of(model).image_side(model) == 32
