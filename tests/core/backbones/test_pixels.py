"""core/backbones/pixels.py: the image itself is the vector."""

from __future__ import annotations

import pytest
import torch

from core.backbones import BackboneConfig, family_named, feature_width, pooled_features
from core.errors import UserError


def test_the_vector_is_the_image() -> None:
    model = family_named("pixels").build(BackboneConfig("pixels"), 0.0)
    images = torch.randn(2, 3, 5, 5)
    assert torch.equal(pooled_features(model, images).view_as(images), images)
    assert feature_width(model, side=5) == 75
    assert not list(model.parameters())
    with pytest.raises(UserError, match="pooling avg"):
        pooled_features(model, images, "avg")


def test_pixels_take_no_arguments() -> None:
    with pytest.raises(UserError, match=r"backbone\.args"):
        family_named("pixels").build(BackboneConfig("pixels", {"depth": 2}), 0.0)
