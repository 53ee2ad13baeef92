"""Continued pre-training: both networks start from the backbone of a checkpoint."""

from __future__ import annotations

import argparse
import dataclasses

from core.backbones import Backbone, check_weights
from core.checkpoints import tensors_digest
from core.errors import UserError
from pretrain.config import PretrainConfig
from pretrain.method import Method


def open_initial(config: PretrainConfig, network: str) -> tuple[PretrainConfig, Backbone | None]:
    """The config with the architecture and normalisation of `config.init`, and its backbone; None without one.

    A `pos_resize` other than timm's in the recipe stays. Raises `UserError` for a checkpoint that can't be opened or
    trained.
    """
    if not config.init:
        return config, None
    from core.distributed import rank_zero_first
    from evaluate.common.opening import open_named

    named = argparse.Namespace(
        ckpt=config.init, network=network, arch=None, mean=None, std=None, pos_resize=None,
        in_chans=None,
    )  # fmt: skip
    with rank_zero_first():
        start = open_named(named, config.seed)
    check_weights(start, "train")
    if start.config.name == "module":
        raise UserError(f"--init {config.init}: pre-training builds its networks by name, which your own has not")
    try:
        config.check_channels(start.config.in_chans)
    except ValueError as error:
        raise UserError(f"--init {config.init}: {error}") from None
    rule = config.backbone.pos_resize if config.backbone.pos_resize != "timm" else start.config.pos_resize
    backbone = dataclasses.replace(start.config, pos_resize=rule)
    return dataclasses.replace(config, backbone=backbone), start


def start_from(method: Method, start: Backbone) -> None:
    """Copies the backbone's weights into the online and the momentum network."""
    weights = start.model.state_dict()
    for network in method.networks():
        network.backbone.load_state_dict(weights)  # type: ignore[union-attr]


def facts_of(start: Backbone | None) -> dict[str, str]:
    """Facts about the checkpoint for a header; empty without one."""
    if start is None:
        return {}
    return {"init": start.source, "init_sha256": tensors_digest(start.model.state_dict())}
