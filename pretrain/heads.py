"""Projector and predictor: small MLPs on top of the backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class HeadConfig:
    widths: tuple[int, ...] = (4096, 256)
    """Widths of the layers; the last is the output."""
    output_norm: bool = False
    """Batch norm without affine parameters on the output (SimSiam's projector; MoCo v3's projector and predictor)."""
    hidden_norm: bool = True
    """Batch norm after each hidden layer; without it the layer has a bias (SimCLR as in ScatSimCLR)."""

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths must be one or more positive numbers, not {list(self.widths)}")


def build_head(width_in: int, config: HeadConfig) -> nn.Sequential:
    """An MLP on [B, width_in]: hidden layers are Linear, BN, ReLU; the last Linear has a bias.

    arXiv 2602.05845; the layout is that of BYOL (arXiv 2006.07733, section 3.3).
    """
    layers: list[nn.Module] = []
    hidden: Sequence[int] = config.widths[:-1]
    for width in hidden:
        layers.append(nn.Linear(width_in, width, bias=not config.hidden_norm))
        layers += [nn.BatchNorm1d(width)] if config.hidden_norm else []
        layers.append(nn.ReLU(inplace=True))
        width_in = width
    layers.append(nn.Linear(width_in, config.widths[-1]))
    if config.output_norm:
        layers.append(nn.BatchNorm1d(config.widths[-1], affine=False))
    return nn.Sequential(*layers)
