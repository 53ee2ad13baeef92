"""A family of backbones that no engine knows is detected and segmented with: its one file is all that it takes."""

# Detectron2 is looked for before what imports it.
# ruff: noqa: E402

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from converters.engines import detectron2_compat

detectron2_compat.install_hook()
pytest.importorskip("detectron2.modeling", reason="needs Detectron2", exc_type=ImportError)
pytest.importorskip("mmseg", reason="needs MMSegmentation", exc_type=ImportError)

import core.backbones
from converters.adapters import adapter_for
from converters.engines.openmmlab import import_mmseg
from core.backbones import Backbone, BackboneConfig, Family, LayerGroups, Pooling, build_backbone, families
from core.config import load_config
from core.distributed import Processes
from core.errors import UserError
from evaluate.common.context import RunContext
from evaluate.common.protocol import protocol_file
from evaluate.detection.model.detector import build_detector, detectron2_config
from evaluate.detection.model.fit import check_fit
from evaluate.detection.settings import DetectionConfig, DetectorConfig, SolverConfig
from evaluate.detection.training.optimiser import parameter_groups

ALONE = Processes(0, 1, torch.device("cpu"))
WIDTHS = (8, 16, 24, 32)


class Tower(nn.Module):
    """Four convolutions, of stride 4, 2, 2 and 2."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (3, *WIDTHS[:3])
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 2 + 2 * (a == 3), stride=2 + 2 * (a == 3)) for a, b in zip(inputs, WIDTHS, strict=True)
        )


class Towers(Family):
    title, noun, vector_name, architecture, dense = "towers", "a tower", "average pool", "tower", "stages"

    def builds(self, name: str) -> bool:
        return name == "tower"

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, Tower)

    def build(self, config: BackboneConfig, drop_path: float) -> nn.Module:
        return Tower()

    def poolings(self, model: Any) -> tuple[Pooling, ...]:
        return ("avg",)

    def width(self, model: Any, pooling: Pooling, side: int | None) -> int:
        return WIDTHS[-1]

    def vector(self, model: Any, images: Tensor, pooling: Pooling) -> Tensor:
        return self.maps(model, images)[-1][1].mean(dim=(2, 3))

    def maps(self, model: Any, images: Tensor, taps: Sequence[int] | None = None) -> list[tuple[int, Tensor]]:
        found, x = [], images
        for stage, conv in enumerate(model.convs):
            x = conv(x).relu()
            found.append((4 * 2**stage, x))
        return [found[tap] for tap in (range(4) if taps is None else taps)]

    def channels(self, model: Any) -> list[int]:
        return list(WIDTHS)

    def layer_groups(self, model: nn.Module) -> LayerGroups:
        return LayerGroups({name: int(name.split(".")[1]) for name, _ in model.named_parameters()}, 4)


@pytest.fixture
def tower(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    known = (Towers(), *families())
    monkeypatch.setattr(core.backbones, "families", lambda: known)
    config = BackboneConfig("tower")
    return Backbone(config, build_backbone(config), "tower")


def test_a_detector(tower: Backbone) -> None:
    settings = DetectorConfig(design="stages_fpn", norm="LN", pyramid_width=16, box_width=16, mask_width=8)
    solver = SolverConfig(optimiser="adamw", layer_decay=0.5)
    config = DetectionConfig(detector=settings, solver=solver)
    check_fit(config, tower)
    detector, coverage = build_detector(detectron2_config(config, tower, 5, ALONE), settings, tower, seed=0)
    assert coverage.summary().startswith("8 matched, 0 missing, 0 unexpected")
    part: Any = detector.backbone
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for ours, (_, own) in zip(part.bottom_up.maps(images), Towers().maps(tower.model, images), strict=True):
            assert torch.equal(ours, own)
    rates = {id(p): group["lr"] for group in parameter_groups(detector, 1.0, config) for p in group["params"]}
    assert rates[id(part.bottom_up.network.convs[1].weight)] == 0.5**3


def test_a_segmentor_and_files_for_libraries(tower: Backbone, tmp_path: Path) -> None:
    import_mmseg()
    from evaluate.segmentation.engine.engine_settings import engine_settings
    from evaluate.segmentation.model.segmentor import build_segmentor
    from evaluate.segmentation.protocol import SegmentConfig

    overrides = ["network.backbone=tower", "network.drop_path=0", "optim.layer_decay=0.5", "crop.size=64"]
    config = load_config(SegmentConfig, protocol_file("ade20k_upernet_swin_t_160k", "segmentation"), overrides)
    context = RunContext(ALONE, workers=0, seed=0)
    settings = engine_settings(config, tower, Path("/d"), ("a",) * 150, context, Path("/w"))
    model, report = build_segmentor(config, settings["model"], tower, context)
    assert "8 of 8 tensors loaded" in report
    with torch.inference_mode():
        assert model.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 150, 16, 16)
    with pytest.raises(UserError, match="TIMMBackbone"):
        adapter_for(tower, "mmseg")
    for library, name in (("timm", "x.safetensors"), ("detectron2", "x.pkl")):
        adapter = adapter_for(tower, library)
        adapter.write(tower, tmp_path / name)
        assert "equal the timm model's (largest difference 0 of" in adapter.verify(tower, tmp_path / name)
