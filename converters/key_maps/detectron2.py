"""Key map of Detectron2's ResNets."""

from __future__ import annotations

from converters.key_maps.base import ON_TOP, KeyMap

# Public scripts that write Detectron2's names prefix everything outside the stages with `stem.`.
_ON_TOP_OF_STEM = {rf"stem\.{pattern}": why for pattern, why in ON_TOP.items()}

RESNET = KeyMap(
    "Detectron2's ResNet",
    "res2.0.conv1.weight",
    "stem.conv1.",
    templates=(
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.{}", "stem.conv1.norm.{}"),
        *(
            (f"layer{stage}.{{}}.{ours}", f"res{stage + 1}.{{}}.{theirs}")
            for stage in (1, 2, 3, 4)
            for ours, theirs in (
                ("conv{}.weight", "conv{}.weight"),
                ("bn{}.{}", "conv{}.norm.{}"),
                ("downsample.0.weight", "shortcut.weight"),
                ("downsample.1.{}", "shortcut.norm.{}"),
            )
        ),
    ),
    note="RGB input and stride in the 3×3 convolution (STRIDE_IN_1X1 False) assumed",
    heads={**ON_TOP, **_ON_TOP_OF_STEM},
)

KEY_MAPS = (RESNET,)
