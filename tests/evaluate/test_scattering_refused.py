"""Detection and segmentation refuse networks on a scattering front, which exist in no other library."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.backbones import Backbone, BackboneConfig, build_backbone
from core.config import load_config
from core.errors import UserError
from evaluate.detection.model.fit import check_fit
from evaluate.detection.settings import DetectionConfig
from evaluate.segmentation.model.network_settings import model_settings
from evaluate.segmentation.protocol import SegmentConfig

ROOT = Path(__file__).resolve().parents[2] / "configs/evaluate"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    config = BackboneConfig("scattering_resnet18", {"channels": [8, 8, 16, 16], "angles": 4})
    return Backbone(config, build_backbone(config), "x.safetensors")


@pytest.mark.parametrize("protocol", ["scenes_maskrcnn_r18_fpn_300it", "coco_maskrcnn_vit_s_selfpatch"])
def test_detection(backbone: Backbone, protocol: str) -> None:
    with pytest.raises(UserError, match=r"scattering_resnet18.*has no maps"):
        check_fit(load_config(DetectionConfig, ROOT / f"{protocol}.yaml"), backbone)


def test_segmentation(backbone: Backbone) -> None:
    config = load_config(SegmentConfig, ROOT / "scenes_fcn_r18_400it.yaml", ["network.backbone=scattering_resnet18"])
    with pytest.raises(UserError, match=r"scattering_resnet18.*no feature maps"):
        model_settings(config, backbone, "BN")
