"""The losses of a recipe: built on a backbone, with sentences where they don't fit it."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from core.backbones import feature_width
from core.data.base import ImageSet
from core.errors import UserError
from pretrain import losses
from pretrain.config import PretrainConfig
from pretrain.losses.base import Auxiliary, Context, Draw, Objective, Picture
from pretrain.views.config import GLOBAL, Decode
from pretrain.views.dataset import Views


def build_objective(config: PretrainConfig, backbone: nn.Module, rank: int = 0) -> Objective:
    """Objective of a recipe with fresh heads (torch's global RNG). Raises `UserError` where it doesn't fit."""
    name = config.objective.name
    views = {key: view for key, view in config.views.items() if key not in config.auxiliary_views()}
    context = Context(
        views=views,
        backbone=backbone,
        width=feature_width(backbone),
        name=name,
        options=losses.configure(name, Objective, config.objective.options),
        rank=rank,
        projector=config.projector,
        predictor=config.predictor,
        predictors=config.predictors,
        temperature=config.objective.temperature,
    )
    return _build(name, Objective, context)  # type: ignore[return-value]


def build_auxiliaries(config: PretrainConfig, backbone: nn.Module, rank: int = 0) -> dict[str, Auxiliary]:
    """Auxiliary losses of a recipe by name. Raises `UserError` where one doesn't fit."""
    built = {}
    for name, auxiliary in config.auxiliary.items():
        context = Context(
            views={auxiliary.view: config.views[auxiliary.view]},
            backbone=backbone,
            width=feature_width(backbone),
            name=name,
            options=losses.configure(name, Auxiliary, auxiliary.options),
            rank=rank,
        )
        built[name] = _build(name, Auxiliary, context)
    return built  # type: ignore[return-value]


def loss_draws(config: PretrainConfig) -> dict[str, dict[str, Draw]]:
    """Draws of the losses that need random numbers, by view type and name of the loss."""
    draws: dict[str, dict[str, Draw]] = {name: {} for name in config.views}
    of_losses: list[tuple[str, type[losses.Loss], dict[str, Any], str]] = [
        (config.objective.name, Objective, config.objective.options, GLOBAL),
        *((name, Auxiliary, of.options, of.view) for name, of in config.auxiliary.items()),
    ]
    for name, kind, options, view in of_losses:
        draw = getattr(losses.find(name, kind), "draw", None)
        if draw is not None:
            draws[view][name] = partial(draw, losses.configure(name, kind, options))
    return draws


def open_views(images: ImageSet, config: PretrainConfig, decode: Decode = "workers") -> Views:
    """The views of a recipe as the trainer draws them, with the draws of its losses.

    `decode`: the recipe's where a `DeviceDecoder` finishes them; otherwise nothing is left to the device.
    """
    own_streams, draws = config.auxiliary_views(), loss_draws(config)
    return Views(images, config.views, config.seed, config.resampler, own_streams, draws, decode)


def loss_pictures(config: PretrainConfig) -> dict[str, tuple[str, Picture]]:
    """View type and picture of each auxiliary loss that changes its views, by name of the loss."""
    found: dict[str, tuple[str, Picture]] = {}
    for name, auxiliary in config.auxiliary.items():
        picture = getattr(losses.find(name, Auxiliary), "picture", None)
        if picture is not None:
            found[name] = auxiliary.view, partial(picture, losses.configure(name, Auxiliary, auxiliary.options))
    return found


def _build(name: str, kind: type[losses.Loss], context: Context) -> losses.Loss:
    try:
        return losses.find(name, kind).LOSS(context)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
