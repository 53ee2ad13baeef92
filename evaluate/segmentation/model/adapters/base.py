"""Interface of an adapter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from core.backbones import Backbone
from core.errors import UserError
from evaluate.segmentation.protocol import SegmentConfig


class Adapter(ABC):
    """How one kind of backbone becomes the `backbone` of an MMSegmentation model; stateless."""

    native: bool
    """True for a network of MMSegmentation's own."""
    plain: bool = False
    """True where all maps have the patches' stride, so that heads for a pyramid need one."""

    @abstractmethod
    def takes(self, backbone: Backbone) -> bool:
        """True for a backbone that it computes exactly."""

    @abstractmethod
    def settings(self, config: SegmentConfig, backbone: Backbone, norm_cfg: dict[str, Any]) -> dict[str, Any]:
        """The `backbone` section. `norm_cfg`: batch norm. Raises `UserError` for settings that don't fit."""

    @abstractmethod
    def widths(self, config: SegmentConfig, backbone: Backbone) -> list[int]:
        """Number of channels of each map, as the section's network returns them."""

    @abstractmethod
    def load(self, module: Any, backbone: Backbone, config: SegmentConfig) -> str:
        """Loads all tensors into the network and freezes what no map depends on; returns a report.

        Raises `UserError` if a tensor of either side has no counterpart.
        """

    @abstractmethod
    def layer_decay(self, backbone: Backbone, rate: float) -> dict[str, Any]:
        """Entries of the `optim_wrapper` section for rates that decay from layer to layer.

        Raises `UserError` for a backbone whose layers aren't known.
        """

    def undecayed(self, backbone: Backbone) -> tuple[str, ...]:
        """Names of the parameters besides vectors that `optim.decay_embeddings: false` exempts."""
        return ("pos_embed", "cls_token")

    def freeze(self, module: Any) -> None:
        """Keeps the network as it is while heads are trained."""
        module.requires_grad_(False)

    def check_taps(self, config: SegmentConfig, what: str, blocks: int) -> None:
        """Raises `UserError` where `network.taps` names a block that a network of `blocks` blocks lacks."""
        last = config.network.taps[-1]
        if last >= blocks:
            raise UserError(
                f"network.taps contains block {last}, but {what} has {blocks} (counted from 0); choose others"
            )
