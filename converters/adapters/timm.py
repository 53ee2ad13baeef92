"""timm itself: every backbone under its own names."""

from __future__ import annotations

from pathlib import Path

from converters.adapters.base import Adapter, is_timms, read_written, write_tensors
from converters.verification.proof import feature_maps, prove
from core.backbones import Backbone, build_backbone, describe
from core.coverage import load_completely


class TimmFile(Adapter):
    """A file that `timm.create_model(…, checkpoint_path=…)` and every `--ckpt` of this project take."""

    library = "timm"

    def fits(self, backbone: Backbone) -> bool:
        """Networks without feature maps are this project's."""
        return is_timms(backbone)

    def check(self, backbone: Backbone) -> None:
        """Nothing: what fits is timm's own network."""

    def write(self, backbone: Backbone, out: Path) -> dict[str, str]:
        state = backbone.model.state_dict()
        write_tensors(out, state)
        return {name: name for name in state}

    def usage(self, backbone: Backbone, out: Path) -> str:
        config = backbone.config
        return f"timm.create_model({config.name!r}, num_classes=0, checkpoint_path={str(out)!r})" + (
            f" with {describe(config)}" if config.args or config.stem != "imagenet" else ""
        )

    def verify(self, backbone: Backbone, out: Path) -> str:
        fresh = build_backbone(backbone.config)
        load_completely(fresh, read_written(out), str(out))
        who = "a fresh timm model's feature maps"
        return f"verified: {who} equal the timm model's {prove(backbone, out, who, fresh, feature_maps)}"


ADAPTERS = (TimmFile(),)
