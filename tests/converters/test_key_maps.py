"""converters/key_maps: reading what was written gives every name back, for all ResNets and ViTs of timm."""

from __future__ import annotations

import functools

import pytest
import timm

from converters.key_maps import KEY_MAPS, detectron2, openmmlab
from converters.key_maps import timm as timm_names
from converters.key_maps import torchvision as torchvision_names
from converters.key_maps.base import KeyMap
from core.compute.shapes import shapes_only

_MAPS = [key_map for key_map in KEY_MAPS if not key_map.refusal]
# Files are written with these, too; the names of the others are only read.
_WRITTEN = [
    *detectron2.KEY_MAPS, openmmlab.VIT, openmmlab.MMPRETRAIN_VIT, *timm_names.KEY_MAPS, *torchvision_names.KEY_MAPS,
]  # fmt: skip


@functools.cache
def _names_in_timm(module: str) -> frozenset[tuple[str, ...]]:
    """Distinct lists of tensor names of timm's models, two blocks deep; meta tensors, so no memory is taken."""
    found = set()
    for name in timm.list_models(module=module):
        arguments = {"depth": 2} if module == "vision_transformer" else {"layers": (2, 1, 1, 1)}
        with shapes_only():
            found.add(tuple(timm.create_model(name, num_classes=0, **arguments).state_dict()))
    assert len(found) > 10
    return frozenset(found)


@pytest.mark.parametrize("key_map", _WRITTEN, ids=lambda key_map: key_map.name)
def test_reading_reverses_writing(key_map: KeyMap) -> None:
    """A name is either refused by the map or comes back, and no two names become one."""
    vit = "blocks" in key_map.anchor_key or "encoder" in key_map.anchor_key or "layers.0" in key_map.anchor_key
    complete = 0
    for names in _names_in_timm("vision_transformer" if vit or "token" in key_map.anchor_key else "resnet"):
        written = {name: key_map.from_timm(name) for name in names}
        there = [theirs for theirs in written.values() if theirs is not None]
        assert len(set(there)) == len(there)
        assert {name: key_map.to_timm(theirs) for name, theirs in written.items() if theirs is not None} == {
            name: name for name, theirs in written.items() if theirs is not None
        }
        if None not in written.values():
            complete += 1
    assert complete > 0


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("layer1.0.se.fc1.weight", "Detectron2's ResNet"),
        ("fc.weight", "Detectron2's ResNet"),
        ("reg_token", "torchvision's ViT"),
        ("blocks.0.ls1.gamma", "MMSegmentation's ViT"),
    ],
)
def test_a_name_without_a_place_is_none(name: str, theirs: str) -> None:
    key_map = next(key_map for key_map in _MAPS if key_map.name == theirs)
    assert key_map.from_timm(name) is None


def test_torchvisions_first_names_are_read_and_not_written() -> None:
    key_map = next(key_map for key_map in _MAPS if key_map.name == "torchvision's ViT")
    first = "encoder.layers.encoder_layer_3.mlp.linear_2.bias"
    assert key_map.to_timm(first) == "blocks.3.mlp.fc2.bias"
    assert key_map.from_timm("blocks.3.mlp.fc2.bias") == "encoder.layers.encoder_layer_3.mlp.3.bias"
