"""Settings of a network in the `config.json` of transformers and in open_clip's, as arguments of timm's model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from converters.candidates import sketch
from converters.settings.hiera import hiera_args
from core.backbones import BackboneConfig, family_of
from core.errors import UserError

_ACTIVATIONS = {
    "gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh",
    "relu": "relu", "silu": "silu",
}  # fmt: skip
_KINDS = (
    *("vit", "deit", "ijepa", "dinov2", "dinov3", "clip", "siglip", "beit", "data2vec-vision", "convnext", "swin"),
    *("hiera", "resnet", "regnet"),
)
_RELU = ("regnet",)
"""Kinds whose activation is ReLU in timm."""
_MOST = 4096


@dataclass(frozen=True)
class NetworkFacts:
    """Facts that the weights don't show, and sizes that must agree with them."""

    file: str
    """Name of the file, for messages."""
    kind: str = ""
    """`model_type` of transformers; `open_clip`."""
    heads: int | None = None
    """Number of attention heads of a transformer with one width."""
    eps: float | None = None
    """ε of layer norms."""
    activation: str | None = None
    """Activation of the MLPs, under timm's name."""
    sizes: tuple[tuple[str, int], ...] = ()
    """(key in the file, value) of width, depth and patch size."""
    args: tuple[tuple[str, Any], ...] = ()
    """Further arguments of timm's model."""

    def apply(self, config: BackboneConfig, source: str) -> BackboneConfig:
        """The inferred `config` with these facts. Raises `UserError` where they contradict the weights."""
        args = config.args | dict(self.args)
        try:
            model: Any = sketch(dataclasses.replace(config, args=args))
        except UserError as error:
            raise UserError(f"{self.file} beside {source} describes a network that can't be built ({error})") from None
        self._check(model, source)
        norms = {module.eps for module in model.modules() if isinstance(module, nn.LayerNorm)}
        if self.eps is not None and norms - {self.eps} and not self.kind.startswith("convnext"):
            args["norm_eps"] = self.eps
        if self.activation is not None and family_of(model).architecture != "resnet":
            args = self._with_activation(args, model, source)
        return dataclasses.replace(config, args=args)

    def _check(self, model: Any, source: str) -> None:
        patches: Any = getattr(model, "patch_embed", None)
        learned = getattr(model, "pos_embed", None) is not None
        actual = {
            "hidden_size": getattr(model, "embed_dim", None),
            "num_hidden_layers": len(getattr(model, "blocks", ())),
            "patch_size": getattr(patches, "patch_size", (None,))[0],
            "image_size": patches.img_size[0] if learned and hasattr(patches, "img_size") else None,
            "num_attention_heads": _heads(model),
        }
        for key, stated in self.sizes:
            found = actual.get(key)
            if found and found != stated:
                raise UserError(
                    f"{self.file} beside {source} contradicts the weights: {key} is {stated} there and {found} here; "
                    f"correct the file or move it elsewhere"
                )

    def _with_activation(self, args: dict[str, Any], model: Any, source: str) -> dict[str, Any]:
        if family_of(model).architecture == "vit":
            gated = not isinstance(model.blocks[0].mlp.fc1, nn.Linear) or (
                model.blocks[0].mlp.fc1.out_features != model.blocks[0].mlp.fc2.in_features
            )
            default = args.get("act_layer", "gelu")
            return args if gated or default == self.activation else args | {"act_layer": self.activation}
        gated = hasattr(getattr(getattr(model, "blocks", [None])[0], "mlp", None), "fc1_g")
        expected = "relu" if self.kind in _RELU else "silu" if gated else "gelu"
        if self.activation != expected:
            raise UserError(
                f"{self.file} beside {source} says that its activation is {self.activation}, which timm's networks of "
                f"this kind don't have; it can't be opened"
            )
        return args


def transformers_facts(config: Mapping[str, Any], file: str) -> NetworkFacts | None:
    """Facts of transformers' `config.json`; None for another file. Raises `UserError` for settings without a twin."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind.startswith(_KINDS):
        return None
    vision = config.get("vision_config")
    if isinstance(vision, dict):
        config = vision | {"model_type": kind}
    activation = config.get("hidden_act")
    activation = (
        activation
        if isinstance(activation, str)
        else {"clip": "quick_gelu", "siglip": "gelu_pytorch_tanh"}.get(kind.partition("_")[0])
    )
    if activation is not None and activation not in _ACTIVATIONS:
        raise UserError(
            f"{file}: no network of timm has the activation {activation!r} (hidden_act); it can't be opened"
        )
    if config.get("downsample_in_bottleneck") is True:
        raise UserError(f"{file}: timm's ResNets have no stride in the 1×1 convolution (downsample_in_bottleneck)")
    extra: list[tuple[str, Any]] = []
    if kind.startswith("dinov3_vit") and (theta := config.get("rope_theta", 100.0)) != 100.0:
        extra.append(("rope_temperature", theta))
    if kind.startswith("swin") and isinstance(side := config.get("image_size"), int):
        extra.append(("img_size", side))
    if kind == "swinv2":
        windows = config.get("pretrained_window_sizes")
        extra += [("window_size", config.get("window_size", 7)), ("pretrained_window_sizes", windows or [0, 0, 0, 0])]
    if kind == "hiera":
        extra += hiera_args(config, file)
    if not all(_moderate(value) for _, value in extra):
        raise UserError(f"{file} holds sizes that no network has ({extra}); correct it or move it elsewhere")
    heads, eps = config.get("num_attention_heads"), config.get("layer_norm_eps")
    named: tuple[str, ...] = ("hidden_size", "num_hidden_layers", "patch_size", "image_size", "num_attention_heads")
    if kind.startswith(("swin", "convnext", "resnet", "regnet", "hiera", "dinov3_convnext")):
        named = ()
    return NetworkFacts(
        file, kind,
        heads if isinstance(heads, int) else None,
        float(eps) if isinstance(eps, int | float) and not isinstance(eps, bool) else None,
        None if activation is None else _ACTIVATIONS[activation],
        tuple((key, config[key]) for key in named if isinstance(config.get(key), int)),
        tuple(extra),
    )  # fmt: skip


def _moderate(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(isinstance(x, int | float) and 0 <= x <= _MOST for x in values)


def open_clip_facts(config: Mapping[str, Any], file: str) -> NetworkFacts | None:
    """Facts of `open_clip_config.json`; None for another file."""
    model = config.get("model_cfg")
    vision = model.get("vision_cfg") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(vision, dict) or "timm_model_name" in vision:
        return None
    width, head = vision.get("width"), vision.get("head_width", 64)
    heads = width // head if isinstance(width, int) and isinstance(head, int) and head > 0 else None
    activation = "quick_gelu" if model.get("quick_gelu") is True else "gelu"
    return NetworkFacts(file, "open_clip", heads, 1e-5, activation)


def _heads(model: Any) -> int | None:
    blocks = getattr(model, "blocks", None)
    attention = getattr(blocks[0], "attn", None) if blocks is not None and len(blocks) else None
    heads = getattr(attention, "num_heads", None)
    return heads if isinstance(heads, int) else None
