"""Key map of lightly's own ResNet; the networks of others that lightly trains keep their names."""

from __future__ import annotations

from converters.key_maps.base import KeyMap

# Its activation lies outside the children, so a sequence of them has no ReLU after the stem: no ResNet of timm or
# torchvision computes the same.
KEY_MAPS = (
    KeyMap(
        "lightly's own ResNetGenerator network",
        "2.0.conv1.weight",
        "0.weight",
        refusal="it lacks the ReLU after the stem; train a torchvision ResNet there",
    ),
)
