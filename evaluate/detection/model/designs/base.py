"""Interface of a design."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from core.backbones import Backbone, BackboneConfig, build_backbone, to_metadata
from core.config import from_dict

if TYPE_CHECKING:
    from evaluate.detection.settings import DetectionConfig, DetectorConfig

PARTS = ("res2", "res3", "res4", "res5")
"""Detectron2's names of the maps of strides 4, 8, 16 and 32."""


class Design(ABC):
    """How one kind of backbone becomes a part of a detector; stateless."""

    name: str
    """Value of `detector.design`."""
    takes_all: str = ""
    """`stages` or `patches` where every backbone with such maps fits; empty for a choice of them."""
    pyramid: bool = True
    """True for heads on five maps, false for C4's on one."""

    def check_settings(self, detector: DetectorConfig) -> None:
        """Raises `ValueError` for settings of the detector that the design has no use for."""
        if not detector.class_token and self.takes_all != "patches":
            raise ValueError(f"class_token must be true for {self.kind}, which have none to drop")

    @abstractmethod
    def check_backbone(self, config: DetectionConfig, backbone: Backbone) -> None:
        """Raises `UserError` for a backbone of its kind (`fits`) that it can't take."""

    @abstractmethod
    def fits(self, backbone: Backbone) -> bool:
        """True for a backbone of the kind that the design is made for."""

    kind: str
    """Backbones that it is made for, in the plural, for messages."""

    @abstractmethod
    def set_backbone(self, cfg: Any, config: DetectionConfig, backbone: Backbone) -> None:
        """Names the backbone's builder in Detectron2's config `cfg`. `cfg.MODEL.SSL` is already set."""

    @abstractmethod
    def places(self, name: str) -> list[str]:
        """Detector's names that the tensor called `name` in timm may have."""

    @abstractmethod
    def owns(self, name: str) -> bool:
        """True if the detector's tensor `name` is one of the backbone's."""

    @abstractmethod
    def parts(self, detector: Any) -> list[Any]:
        """The detector's modules that hold nothing but the backbone's tensors, and together all of them."""

    def network(self) -> str:
        """Prefix of timm's network in the detector; empty where it is Detectron2's own."""
        return ""


def describe_for_builder(backbone: Backbone) -> str:
    """The backbone's config as text, which fits into Detectron2's config."""
    return json.dumps(to_metadata(backbone.config))


def build_described(ssl: Any) -> Any:
    """Network with random weights (torch's global RNG) of the `MODEL.SSL` section of Detectron2's config."""
    return build_backbone(from_dict(BackboneConfig, json.loads(ssl.CONFIG)), drop_path=ssl.DROP_PATH)
