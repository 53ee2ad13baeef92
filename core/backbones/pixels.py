"""Raw pixels, the baseline without a network: the normalised image itself, flattened, is the feature."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from core.backbones.base import BackboneConfig, Family, Pooling
from core.errors import UserError


class RawPixels(nn.Module):
    """Flattened images; no weights."""

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 3·H·W]."""
        return images.flatten(1)


class Pixels(Family):
    """One vector per image, as long as the image has values."""

    title = "raw pixels"
    noun = "a baseline of raw pixels"
    vector_name = "pixels"
    architecture = "pixels"
    dense = "none"
    trainable = False

    def builds(self, name: str) -> bool:
        return name == "pixels"

    def names(self) -> list[str]:
        return ["pixels"]

    def matches(self, model: nn.Module) -> bool:
        return isinstance(model, RawPixels)

    def build(self, config: BackboneConfig, drop_path: float) -> nn.Module:
        if config.args or config.stem != "imagenet" or drop_path:
            raise UserError("pixels have neither backbone.args nor backbone.stem nor drop_path; leave them out")
        return RawPixels()

    def poolings(self, model: Any) -> tuple[Pooling, ...]:
        return ("auto",)

    def width(self, model: Any, pooling: Pooling, side: int | None) -> int:
        assert side is not None, "the number of pixels depends on the image size"
        return 3 * side * side

    def vector(self, model: Any, images: Tensor, pooling: Pooling) -> Tensor:
        self.resolve_pooling(model, pooling)
        return model(images)


FAMILY = Pixels()
