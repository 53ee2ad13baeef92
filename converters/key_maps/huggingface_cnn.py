"""Key map of transformers' ResNets."""

from __future__ import annotations

from converters.key_maps.base import ON_TOP, KeyMap


def _rows() -> tuple[tuple[str, str], ...]:
    rows = []
    for stage in range(4):
        ours, theirs = f"layer{stage + 1}.{{}}.", f"encoder.stages.{stage}.layers.{{}}."
        for part in range(3):
            rows.append((f"{ours}conv{part + 1}.{{}}", f"{theirs}layer.{part}.convolution.{{}}"))
            rows.append((f"{ours}bn{part + 1}.{{}}", f"{theirs}layer.{part}.normalization.{{}}"))
        rows.append((f"{ours}downsample.0.{{}}", f"{theirs}shortcut.convolution.{{}}"))
        rows.append((f"{ours}downsample.1.{{}}", f"{theirs}shortcut.normalization.{{}}"))
    return tuple(rows)


RESNET = KeyMap(
    "transformers' ResNet",
    "encoder.stages.0.layers.0.layer.0.convolution.weight",
    "embedder.embedder.convolution.",
    templates=(
        ("conv1.{}", "embedder.embedder.convolution.{}"),
        ("bn1.{}", "embedder.embedder.normalization.{}"),
        *_rows(),
    ),
    note="stride in the 3×3 convolution assumed",
    heads=ON_TOP,
)

KEY_MAPS = (RESNET,)
