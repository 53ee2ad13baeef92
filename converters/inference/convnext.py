"""ConvNeXt and ConvNeXt V2."""

from __future__ import annotations

from typing import Any

from converters.inference.base import Inference, Tensors, changed, depths_of
from converters.inference.hints import Hints
from core.backbones import BackboneConfig

_TINY = {"depths": [3, 3, 9, 3], "dims": [96, 192, 384, 768], "patch_size": 4, "kernel_sizes": 7}
# (depths, dims) -> timm's word for the size.
_SIZES: dict[tuple[tuple[int, ...], tuple[int, ...]], str] = {
    ((3, 3, 9, 3), (96, 192, 384, 768)): "tiny",
    ((3, 3, 27, 3), (96, 192, 384, 768)): "small",
    ((3, 3, 27, 3), (128, 256, 512, 1024)): "base",
    ((3, 3, 27, 3), (192, 384, 768, 1536)): "large",
}


def _config(tensors: Tensors, hints: Hints) -> tuple[BackboneConfig, str]:
    depths = depths_of(tensors, "stages")
    dims = [tensors[f"stages.{stage}.blocks.0.conv_dw.weight"].shape[0] for stage in range(len(depths))]
    first = tensors["stages.0.blocks.0.mlp.fc1.weight"]
    # Without layer scale, as VICRegL's: timm's second version without its norm of responses.
    normed, scaled = (f"stages.0.blocks.0.{name}" in tensors for name in ("mlp.grn.weight", "gamma"))
    family = "convnext" if scaled else "convnextv2"
    size = _SIZES.get((tuple(depths), tuple(dims)))
    args: dict[str, Any] = {} if size else changed({"depths": depths, "dims": dims}, _TINY)
    args |= changed(
        {
            "patch_size": tensors["stem.0.weight"].shape[-1],
            "kernel_sizes": tensors["stages.0.blocks.0.conv_dw.weight"].shape[-1],
        },
        _TINY,
    )
    if not scaled and not normed:
        args["use_grn"] = False
    if first.ndim == 4:
        args["conv_mlp"] = True
    if "norm_pre.weight" in tensors:
        args["head_norm_first"] = True
    return BackboneConfig(f"{family}_{size or 'tiny'}", args), ""


INFERENCE = Inference(
    ("stages.0.blocks.0.conv_dw.weight", "stem.0.weight", "stages.0.blocks.0.mlp.fc1.weight"), _config
)
