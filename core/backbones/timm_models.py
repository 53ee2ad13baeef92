"""timm's models by name, as the families of this folder build them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from core.backbones.base import BackboneConfig, LayerGroups
from core.errors import UserError

# Modules of timm.models by the file of this folder that builds their networks; timm_stages.py takes all others.
RESNET_MODULES = ("resnet", "res2net", "resnest", "sknet")
VIT_MODULES = ("vision_transformer", "deit", "vision_transformer_hybrid", "vitamin")
TOKEN_MODULES = (
    *("eva", "beit", "vision_transformer_relpos", "naflexvit", "deepseek_vit", "qwen3_vit"),
    *("cait", "convit", "mlp_mixer", "tnt", "xcit"),
)

# Arguments of timm that don't shape the network: weight files, download locations, other kinds of model.
NOT_OF_THE_MODEL = {
    *("model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "checkpoint_path"),
    *("pretrained_filter_fn", "cache_dir", "scriptable", "exportable", "no_jit", "feature_cfg", "features_only"),
    *("out_indices", "kwargs_filter", "num_classes", "drop_path_rate"),
}
_ON_TOP = ("norm", "fc_norm", "attn_pool", "head", "norm_head", "head_norm")
_MAX_BLOCKS = 1000
"""Deeper networks would be built for minutes before an error could be reported."""


def module_of(name: str) -> str | None:
    """The last part of the module of `timm.models` that defines the model `name`; None if timm has no such model."""
    import timm

    if not timm.is_model(name):
        return None
    return timm.models.model_entrypoint(name).__module__.rpartition(".")[2]


def module_of_class(model: nn.Module) -> str | None:
    """The last part of the module of `timm.models` that defines the class of `model`; None for other classes."""
    package, _, module = type(model).__module__.rpartition(".")
    return module if package == "timm.models" else None


def names_in(*modules: str) -> list[str]:
    """Names of the models that timm defines in these modules of `timm.models`."""
    import timm

    return [name for module in modules for name in timm.list_models(module=module)]


def create(config: BackboneConfig, drop_path: float, expected: type[nn.Module] = nn.Module, **defaults: Any) -> Any:
    """timm's model of `config` with random weights and without a head; `config.args` override `defaults`.

    `drop_path`: stochastic depth rate, 0 … 1; at 0 it is not passed on, as not all models have one, and switched off
    where timm has another default (0.1 in Swin). Raises `UserError` for arguments that don't fit the model, and for a
    model of another class than `expected`.
    """
    import timm

    args = dict(config.args)
    eps = args.pop("norm_eps", None)
    if refused := sorted(NOT_OF_THE_MODEL & config.args.keys()):
        raise UserError(f"backbone.args may only shape the network, {refused[0]} does not; leave it out")
    if (depth := _blocks(config.args)) > _MAX_BLOCKS:
        raise UserError(f"backbone.args ask for {depth} blocks of {config.name}; at most {_MAX_BLOCKS} are built")
    try:
        # timm drops arguments that are None.
        model = timm.create_model(
            config.name, pretrained=False, num_classes=0, drop_path_rate=drop_path or None, **(defaults | args)
        )
    except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError, LookupError, ArithmeticError,
            MemoryError, NotImplementedError) as error:  # fmt: skip
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"backbone.args {config.args} don't fit {config.name}: {reason}") from None
    if not drop_path:
        for module in model.modules():
            if isinstance(module, timm.layers.DropPath):
                module.drop_prob = 0.0
    if eps is not None:
        _set_eps(model, eps)
    if not isinstance(model, expected):
        raise UserError(f"timm builds {config.name} as {type(model).__name__}, not {expected.__name__}; choose another")
    return model


def _set_eps(model: nn.Module, eps: Any) -> None:
    """Sets the ε of all layer norms, which timm's arguments can't say."""
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
        raise UserError(f"backbone.args.norm_eps must be a number between 0 and 1, not {eps!r}")
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    if not norms:
        raise UserError("backbone.args.norm_eps is for networks with layer norms; leave it out")
    for norm in norms:
        norm.eps = float(eps)


def _blocks(args: dict[str, Any]) -> int:
    layers = args.get("layers")
    numbers = [args.get("depth"), *(layers if isinstance(layers, list | tuple) else ())]
    return sum(number for number in numbers if isinstance(number, int))


def check_plain_config(config: BackboneConfig) -> None:
    """Raises `UserError` for settings that only ResNets or plain ViTs have."""
    if config.stem != "imagenet":
        raise UserError(f"backbone.stem={config.stem} is for ResNets; leave it out for {config.name}")
    if config.pos_resize != "timm":
        raise UserError(f"backbone.pos_resize={config.pos_resize} is for plain ViTs; leave it out for {config.name}")


def intermediates(model: Any, images: Tensor, taps: Sequence[int], norm: bool = False, **more: Any) -> list[Any]:
    """What timm's `forward_intermediates` gives for each tap, in the order of `taps`: maps [B, C, h, w].

    `norm`: after the final norm; `more`: further arguments of it, such as `return_prefix_tokens`.
    """
    indices = sorted(set(taps))
    found = model.forward_intermediates(
        images, indices=indices, norm=norm, stop_early=True, output_fmt="NCHW", intermediates_only=True, **more
    )
    by_index = dict(zip(indices, found, strict=True))
    return [by_index[tap] for tap in taps]


def layer_groups(model: Any) -> LayerGroups:
    """timm's own groups (`group_matcher`), 0 for the input's, and the parameters that it exempts from weight decay.

    As in timm, heads share the group of a norm that is theirs; elsewhere they are a group of their own.
    """
    from timm.models import group_parameters

    layers: dict[str, int] = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    last = max(layers.values())
    on_top = all(name.partition(".")[0] in _ON_TOP for name, layer in layers.items() if layer == last)
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
    undecayed = frozenset(name for name, _ in model.named_parameters() if name in exempt)
    return LayerGroups(layers, last if on_top else last + 1, undecayed)
