"""A sample of the kinds of checkpoint, one or two of each sort; `make kinds` measures all."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.kinds.base import measure
from tests.kinds.kinds import KINDS, PAGE

SAMPLE = {
    "iBOT: checkpoint.pth, student": 0.0,
    "DINOv2: released, with registers": 1e-5,
    "DINOv3: released ViT with gated MLPs": 1e-5,
    "ConvNeXt V2: official": 0.0,
    "BEiT: pre-trained": 1e-5,
    "MMPretrain: DINOv2": 0.0,
    "MMPretrain: MoCo v3, small ViT of 12 heads": 0.0,
    "MMPretrain: BEiT": 1e-5,
    "MMPretrain: Swin": 1e-5,
    "MMPretrain: ConvNeXt": 1e-5,
    "timm: eva02_tiny_patch14_224, folder": 0.0,
    "torchvision: ConvNeXt": 0.0,
    "transformers: SigLIP, image tower": 1e-5,
    "transformers: DINOv3 ViT": 1e-5,
    "transformers: Swin v2": 1e-5,
    "open_clip: ViT with QuickGELU, folder": 1e-5,
}


@pytest.mark.parametrize("name", SAMPLE)
def test_features_are_those_of_the_projects_own_code(tmp_path: Path, name: str) -> None:
    library = name.partition(":")[0]
    if library in ("transformers", "open_clip") and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    [kind] = [kind for kind in KINDS if kind.name == name]
    outcome = measure(kind, tmp_path / "kind")
    assert outcome.difference is not None, outcome.opens_as
    assert outcome.difference <= SAMPLE[name]


def test_the_page_has_a_row_for_every_kind() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert not [kind.name for kind in KINDS if f"\n| {kind.name} |" not in page]
