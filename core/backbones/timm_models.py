"""timm's models by name, as the families of this folder build them."""

from __future__ import annotations

from typing import Any

from torch import nn

from core.backbones.base import BackboneConfig
from core.errors import UserError

# Arguments of timm that don't shape the network: weight files, download locations, other kinds of model.
_NOT_OF_THE_MODEL = {
    *("model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "checkpoint_path"),
    *("pretrained_filter_fn", "cache_dir", "scriptable", "exportable", "no_jit", "feature_cfg", "features_only"),
    *("out_indices", "kwargs_filter", "num_classes", "drop_path_rate", "in_chans"),
}
_MAX_BLOCKS = 1000
"""Deeper networks would be built for minutes before an error could be reported."""


def defined_in(name: str, module: str) -> bool:
    """True if timm has a model `name` and defines it in `timm.models.<module>`."""
    import timm

    return timm.is_model(name) and timm.models.model_entrypoint(name).__module__ == f"timm.models.{module}"


def names_in(module: str) -> list[str]:
    """Names of the models that timm defines in `timm.models.<module>`."""
    import timm

    return list(timm.list_models(module=module))


def create(config: BackboneConfig, drop_path: float, expected: type[nn.Module], **defaults: Any) -> Any:
    """timm's model of `config` with random weights and without a head; `config.args` override `defaults`.

    Raises `UserError` for arguments that don't fit the model, and for a model of another class than `expected`.
    """
    import timm

    if refused := sorted(_NOT_OF_THE_MODEL & config.args.keys()):
        raise UserError(f"backbone.args may only shape the network, {refused[0]} does not; leave it out")
    if (depth := _blocks(config.args)) > _MAX_BLOCKS:
        raise UserError(f"backbone.args ask for {depth} blocks of {config.name}; at most {_MAX_BLOCKS} are built")
    try:
        model = timm.create_model(
            config.name, pretrained=False, num_classes=0, drop_path_rate=drop_path, **(defaults | config.args)
        )
    except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError, LookupError, ArithmeticError,
            MemoryError, NotImplementedError) as error:  # fmt: skip
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"backbone.args {config.args} don't fit {config.name}: {reason}") from None
    if not isinstance(model, expected):
        raise UserError(f"timm builds {config.name} as {type(model).__name__}, not {expected.__name__}; choose another")
    return model


def _blocks(args: dict[str, Any]) -> int:
    layers = args.get("layers")
    numbers = [args.get("depth"), *(layers if isinstance(layers, list | tuple) else ())]
    return sum(number for number in numbers if isinstance(number, int))
