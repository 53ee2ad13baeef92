"""Key maps of ConvNeXt: timm's, its authors' (V2, DINOv3 and VICRegL too), transformers' and torchvision's."""

from __future__ import annotations

from torch import Tensor

from converters.key_maps.base import ON_TOP, KeyMap

_HEADS = {r"head\.(?!norm)": "head on top of the backbone", **{k: v for k, v in ON_TOP.items() if "head" not in k}}
_CLASSIFIER = {
    r"(classifier|head|fc|decoder|proj|pred)\.": "head on top of the backbone",
    "mask_token": "masked patches",
}


def _adapt(tensors: dict[str, Tensor]) -> str:
    """Layer scale and GRN have one dimension in timm's network, and 1×1 convolutions of some files are linear."""
    for name, tensor in list(tensors.items()):
        if (name.endswith((".gamma", ".grn.weight", ".grn.bias"))) and tensor.ndim > 1:
            tensors[name] = tensor.reshape(-1)
    return ""


def _authors(tensors: dict[str, Tensor]) -> str:
    """VICRegL's networks, which have neither layer scale nor GRN, take the mean of the normalised map."""
    _adapt(tensors)
    scaled = any(name.endswith((".gamma", ".grn.weight")) for name in tensors)
    if scaled or "head.norm.weight" not in tensors:
        return ""
    for part in ("weight", "bias"):
        if f"head.norm.{part}" in tensors:
            tensors[f"norm_pre.{part}"] = tensors.pop(f"head.norm.{part}")
    return "no layer scale: the norm before the mean, as in VICRegL"


def _blocks(theirs: str) -> tuple[tuple[str, str], ...]:
    """Rows for the blocks of a library whose names of a block begin with `theirs`."""
    return (
        ("stages.{}.blocks.{}.conv_dw.{}", theirs + "dwconv.{}"),
        ("stages.{}.blocks.{}.mlp.fc{}.{}", theirs + "pwconv{}.{}"),
        ("stages.{}.blocks.{}.mlp.grn.weight", theirs + "grn.gamma"),
        ("stages.{}.blocks.{}.mlp.grn.bias", theirs + "grn.beta"),
        ("stages.{}.blocks.{}.mlp.grn.{}", theirs + "grn.{}"),
        ("stages.{}.blocks.{}.norm.{}", theirs + "norm.{}"),
        ("stages.{}.blocks.{}.norm.{}", theirs + "layernorm.{}"),
        ("stages.{}.blocks.{}.gamma", theirs + "layer_scale_parameter"),
        ("stages.{}.blocks.{}.gamma", theirs + "gamma"),
    )


TIMM = KeyMap("timm's ConvNeXt", "stages.0.blocks.0.conv_dw.weight", "stem.", heads=_HEADS)

AUTHORS = KeyMap(
    "ConvNeXt's own code",
    "stages.0.0.dwconv.weight",
    "downsample_layers.0.",
    templates=(
        ("stem.{}.{}", "downsample_layers.0.{}.{}"),
        ("stages.{n}.downsample.{}.{}", "downsample_layers.{n}.{}.{}"),
        *_blocks("stages.{}.{}."),
        ("head.norm.{}", "norm.{}"),
    ),
    heads={**_CLASSIFIER, r"norms\.": "norm of the stages"},
    adapt=_authors,
)

TRANSFORMERS = KeyMap(
    "transformers' ConvNeXt",
    "encoder.stages.0.layers.0.dwconv.weight",
    "embeddings.patch_embeddings.",
    templates=(
        ("stem.0.{}", "embeddings.patch_embeddings.{}"),
        ("stem.1.{}", "embeddings.layernorm.{}"),
        ("stages.{}.downsample.{}.{}", "encoder.stages.{}.downsampling_layer.{}.{}"),
        ("stages.{}.blocks.{}.norm.{}", "encoder.stages.{}.layers.{}.layernorm.{}"),
        *_blocks("encoder.stages.{}.layers.{}."),
        ("head.norm.{}", "layernorm.{}"),
    ),
    heads=_CLASSIFIER,
    adapt=_adapt,
)


def _dinov3(tensors: dict[str, Tensor]) -> str:
    """The stem is the first stage's downsampling there."""
    for name in [name for name in tensors if name.startswith("stages.0.downsample.")]:
        tensors[name.replace("stages.0.downsample.", "stem.")] = tensors.pop(name)
    return _adapt(tensors)


DINOV3 = KeyMap(
    "transformers' DINOv3 ConvNeXt",
    "stages.0.layers.0.depthwise_conv.weight",
    "stages.0.downsample_layers.",
    templates=(
        ("stages.{}.downsample.{}.{}", "stages.{}.downsample_layers.{}.{}"),
        ("stages.{}.blocks.{}.conv_dw.{}", "stages.{}.layers.{}.depthwise_conv.{}"),
        ("stages.{}.blocks.{}.mlp.fc{}.{}", "stages.{}.layers.{}.pointwise_conv{}.{}"),
        ("stages.{}.blocks.{}.norm.{}", "stages.{}.layers.{}.layer_norm.{}"),
        ("stages.{}.blocks.{}.gamma", "stages.{}.layers.{}.gamma"),
        ("head.norm.{}", "layer_norm.{}"),
    ),
    heads=_CLASSIFIER,
    adapt=_dinov3,
)

TORCHVISION = KeyMap(
    "torchvision's ConvNeXt",
    "features.1.0.block.0.weight",
    "features.0.0.",
    templates=(
        ("stem.0.{}", "features.0.0.{}"),
        ("stem.1.{}", "features.0.1.{}"),
        *(
            row
            for stage in range(4)
            for row in (
                (f"stages.{stage}.blocks.{{}}.conv_dw.{{}}", f"features.{2 * stage + 1}.{{}}.block.0.{{}}"),
                (f"stages.{stage}.blocks.{{}}.norm.{{}}", f"features.{2 * stage + 1}.{{}}.block.2.{{}}"),
                (f"stages.{stage}.blocks.{{}}.mlp.fc1.{{}}", f"features.{2 * stage + 1}.{{}}.block.3.{{}}"),
                (f"stages.{stage}.blocks.{{}}.mlp.fc2.{{}}", f"features.{2 * stage + 1}.{{}}.block.5.{{}}"),
                (f"stages.{stage}.blocks.{{}}.gamma", f"features.{2 * stage + 1}.{{}}.layer_scale"),
                (f"stages.{stage}.downsample.{{}}.{{}}", f"features.{2 * stage}.{{}}.{{}}"),
            )
        ),
        ("head.norm.{}", "classifier.0.{}"),
    ),
    heads={r"classifier\.": "head on top of the backbone"},
    adapt=_adapt,
)

KEY_MAPS = (TIMM, AUTHORS, TRANSFORMERS, DINOV3, TORCHVISION)
