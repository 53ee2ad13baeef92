"""MMSegmentation's own ResNets, which can be dilated."""

from __future__ import annotations

from typing import Any

from converters.adapters.mmseg import ResNetFile
from core.backbones import Backbone
from core.coverage import load_completely
from core.errors import UserError
from evaluate.segmentation.model.adapters.base import Adapter
from evaluate.segmentation.protocol import SegmentConfig

_FILE = ResNetFile()
_DILATION = {8: ([1, 2, 1, 1], [1, 1, 2, 4]), 16: ([1, 2, 2, 1], [1, 1, 1, 2]), 32: ([1, 2, 2, 2], [1, 1, 1, 1])}


class ResNetAdapter(Adapter):
    """The same bits as timm's ResNet at every map."""

    native = True

    def takes(self, backbone: Backbone) -> bool:
        return _FILE.takes(backbone)

    def settings(self, config: SegmentConfig, backbone: Backbone, norm_cfg: dict[str, Any]) -> dict[str, Any]:
        settings, network = _FILE.settings(backbone), config.network
        if settings["depth"] < 50 and network.output_stride < 32:
            raise UserError(
                f"network.output_stride={network.output_stride} needs a ResNet with bottlenecks: MMSegmentation "
                f"dilates only one of the two convolutions per block of a {backbone.config.name}, which breaks trained "
                f"weights; set it to 32"
            )
        strides, dilations = _DILATION[network.output_stride]
        return settings | {
            "strides": strides, "dilations": dilations, "contract_dilation": network.contract_dilation,
            "norm_cfg": norm_cfg, "norm_eval": network.frozen,
        }  # fmt: skip

    def widths(self, config: SegmentConfig, backbone: Backbone) -> list[int]:
        settings = _FILE.settings(backbone)
        expansion = 4 if settings["depth"] >= 50 else 1
        return [expansion * settings["base_channels"] * 2**stage for stage in range(4)]

    def load(self, module: Any, backbone: Backbone, config: SegmentConfig) -> str:
        names = _FILE.names(backbone)
        tensors = {names[name]: tensor for name, tensor in backbone.model.state_dict().items()}
        coverage = load_completely(module, tensors, backbone.source)
        return f"{len(coverage.matched)} of {len(tensors)} tensors loaded"

    def layer_decay(self, backbone: Backbone, rate: float) -> dict[str, Any]:
        raise UserError(
            f"optim.layer_decay applies to networks whose layers are known, not to {backbone.config.name}; set "
            f"optim.layer_decay=null"
        )


ADAPTERS = (ResNetAdapter(),)
