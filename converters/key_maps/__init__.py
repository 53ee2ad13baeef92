"""Dialects: how libraries name the tensors of a ResNet or a ViT, and the way from each to timm's names."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from core.errors import UserError


@dataclass(frozen=True)
class Dialect:
    """One library's names for the tensors of one kind of network."""

    name: str
    """Whose names these are, for messages."""
    landmark: str
    """Name of a tensor of the first block; a network is where this stands …"""
    companion: str
    """… beside a tensor whose name begins so (the first convolution)."""
    rules: tuple[tuple[str, str], ...] = ()
    """(regular expression for the whole name, replacement): the first that fits gives timm's name."""
    note: str = ""
    """What the weights can't show and is assumed."""
    heads: dict[str, str] = field(default_factory=dict)
    """Regular expression for names that are no part of the backbone -> why."""

    def to_timm(self, name: str) -> str:
        """timm's name of the tensor; names that no rule knows stay as they are."""
        for pattern, replacement in self.rules:
            if re.fullmatch(pattern, name):
                return re.sub(pattern, replacement, name)
        return name

    def why_no_part(self, name: str) -> str | None:
        """Why a tensor below the backbone's prefix is no part of it; None where nothing is known against it."""
        return next((why for pattern, why in self.heads.items() if re.match(pattern, name)), None)

    def what_is(self, name: str) -> str:
        """What a tensor is that stands elsewhere in the file."""
        found = (why for pattern, why in self.heads.items() if re.search(rf"(^|[._]){pattern}", name))
        return next(found, "outside the backbone")


_ON_TOP = {
    r"(fc|head|heads|head_dist|classifier|linear|last_linear|cls_head)\.": "head or projector on top of the backbone",
    r"(projector|projection_head|projection|neck)\.": "projector",
    r"(predictors?|prediction_head)\.": "predictor",
    r"(prototypes|queue)": "bookkeeping of the method",
}
_MASKED = {r"(decoder|mask_token)": "decoder of a masked autoencoder"}

# Public scripts that write Detectron2's names put `stem.` before all that stands outside of the stages.
_BEHIND_STEM = {rf"stem\.{pattern}": why for pattern, why in _ON_TOP.items()}

_CHILD = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}

DIALECTS = (
    Dialect("torchvision's and timm's ResNet", "layer1.0.conv1.weight", "conv1.", heads=_ON_TOP),
    Dialect(
        "torchvision's ResNet as a sequence of its children",
        "7.0.conv1.weight",
        "0.weight",
        rules=tuple((rf"{child}\.(.*)", rf"{name}.\1") for child, name in _CHILD.items()),
        heads=_ON_TOP,
    ),
    Dialect(
        "Detectron2's ResNet",
        "res2.0.conv1.weight",
        "stem.conv1.",
        rules=(
            (r"stem\.conv1\.weight", "conv1.weight"),
            (r"stem\.conv1\.norm\.(\w+)", r"bn1.\1"),
            *(
                (rf"res{number + 1}\.(\d+)\.{theirs}", rf"layer{number}.\1.{ours}")
                for number in (1, 2, 3, 4)
                for theirs, ours in (
                    (r"conv(\d)\.weight", r"conv\2.weight"),
                    (r"conv(\d)\.norm\.(\w+)", r"bn\2.\3"),
                    (r"shortcut\.weight", "downsample.0.weight"),
                    (r"shortcut\.norm\.(\w+)", r"downsample.1.\2"),
                )
            ),
        ),
        note="RGB input and stride in the 3×3 convolution (STRIDE_IN_1X1 False) assumed",
        heads=_ON_TOP | _BEHIND_STEM,
    ),
    Dialect("timm's ViT", "blocks.0.attn.qkv.weight", "patch_embed.proj.", heads=_ON_TOP | _MASKED),
    Dialect(
        "torchvision's ViT",
        "encoder.layers.encoder_layer_0.self_attention.in_proj_weight",
        "conv_proj.",
        rules=(
            (r"class_token", "cls_token"),
            (r"encoder\.pos_embedding", "pos_embed"),
            (r"conv_proj\.(\w+)", r"patch_embed.proj.\1"),
            (r"encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
            (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_(\w+)", r"blocks.\1.attn.qkv.\2"),
            (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
            (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
            (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
            (r"encoder\.ln\.(\w+)", r"norm.\1"),
        ),
        heads=_ON_TOP,
    ),
    *(
        Dialect(
            f"{library}'s ViT",
            landmark,
            "patch_embed.projection.",
            rules=(
                (r"patch_embed\.projection\.(\w+)", r"patch_embed.proj.\1"),
                (r"layers\.(\d+)\.ln([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
                (r"layers\.(\d+)\.attn\.attn\.in_proj_(\w+)", r"blocks.\1.attn.qkv.\2"),
                (r"layers\.(\d+)\.attn\.attn\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
                (r"layers\.(\d+)\.attn\.(qkv|proj)\.(\w+)", r"blocks.\1.attn.\2.\3"),
                (r"layers\.(\d+)\.ffn\.layers\.0\.0\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
                (r"layers\.(\d+)\.ffn\.layers\.1\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
                (r"ln1\.(\w+)", r"norm.\1"),
            ),
            note="layer norms with eps 1e-6 assumed",
            heads=_ON_TOP | _MASKED,
        )
        for library, landmark in (
            ("MMPretrain", "layers.0.attn.qkv.weight"),
            ("MMSegmentation", "layers.0.attn.attn.in_proj_weight"),
        )
    ),
)

# The network that lightly calls ResNetGenerator keeps its activation outside the children, so a sequence of them
# has no ReLU after the stem: no ResNet of timm or torchvision computes the same.
_WITHOUT_RELU = ("2.0.conv1.weight", "0.weight")


def find_networks(names: Iterable[str], source: str) -> dict[str, Dialect]:
    """Prefix -> dialect of every ResNet or ViT among tensor names; the prefix is empty or ends with a dot."""
    names = list(names)
    ordered = sorted(names)

    def begins(start: str) -> bool:
        place = bisect.bisect_left(ordered, start)
        return place < len(ordered) and ordered[place].startswith(start)

    found: dict[str, Dialect] = {}
    for name in names:
        for dialect in DIALECTS:
            prefix = _prefix(name, dialect.landmark)
            if prefix is not None and begins(prefix + dialect.companion):
                found[prefix] = dialect
        if (prefix := _prefix(name, _WITHOUT_RELU[0])) is not None and begins(prefix + _WITHOUT_RELU[1]):
            raise UserError(
                f"{source} holds lightly's own ResNetGenerator network below {prefix!r}, which lacks the ReLU after "
                f"the stem and so can't be converted; train a torchvision ResNet there"
            )
    return found


def _prefix(name: str, ending: str) -> str | None:
    """What stands before `ending` where the name ends with it, as whole parts."""
    prefix = name.removesuffix(ending)
    return prefix if prefix != name and (not prefix or prefix.endswith(".")) else None
