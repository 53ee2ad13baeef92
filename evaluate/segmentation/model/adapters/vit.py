"""MMSegmentation's own ViT, for plain ones with a class token and biases everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from converters.adapters.mmseg import VitFile
from converters.mmseg_backbone import FINAL_NORM
from core.backbones import Backbone, family_of
from core.backbones.positions import PosResize, resize_positions
from core.coverage import load_completely
from evaluate.segmentation.model.adapters.base import Adapter
from evaluate.segmentation.protocol import SegmentConfig

_FILE = VitFile()


class VitAdapter(Adapter):
    """Equal to timm's ViT up to rounding; position embeddings are resized by the rule of the backbone's config."""

    native = True
    plain = True

    def takes(self, backbone: Backbone) -> bool:
        return _FILE.takes(backbone)

    def settings(self, config: SegmentConfig, backbone: Backbone, norm_cfg: dict[str, Any]) -> dict[str, Any]:
        settings, network = _FILE.settings(backbone), config.network
        self.check_taps(config, backbone.config.name, settings["num_layers"])
        # Position embeddings are resized to the crops' grid once and trained at that size.
        patch = settings["patch_size"]
        side = -(-config.crop.size // patch) * patch
        kind = "VisionTransformer" if config.optim.layer_decay is None else "MAEVisionTransformer"
        if network.final_norm_on == "every":
            kind = "NormedTapsMAEVisionTransformer"
        return settings | {
            "type": kind, "img_size": [side, side], "out_indices": list(network.taps),
            "final_norm": network.final_norm, "drop_path_rate": network.drop_path,
            "with_cls_token": network.class_token,
        }  # fmt: skip

    def widths(self, config: SegmentConfig, backbone: Backbone) -> list[int]:
        return [family_of(backbone.model).channels(backbone.model)[tap] for tap in config.network.taps]

    def load(self, module: Any, backbone: Backbone, config: SegmentConfig) -> str:
        names = _FILE.names(backbone)
        tensors = {names[name]: tensor for name, tensor in backbone.model.state_dict().items()}
        total, notes = len(tensors), []
        if not config.network.final_norm:
            for name in FINAL_NORM:
                tensors.pop(name)
            notes.append(f"the {len(FINAL_NORM)} of the final norm skipped, as the taps lie before it")
        grid = (module.img_size[0] // module.patch_size, module.img_size[1] // module.patch_size)
        tensors["pos_embed"], note = _positions(backbone, tensors["pos_embed"], grid)
        notes += note
        coverage = load_completely(module, tensors, backbone.source)
        module.resize_pos_embed = _Resize(backbone.config.pos_resize)
        report = "; ".join([f"{len(coverage.matched)} of {total} tensors loaded", *notes])
        return report + self._freeze_unseen(module, config)

    def _freeze_unseen(self, module: Any, config: SegmentConfig) -> str:
        """Freezes the part behind the last tap; returns a sentence about it.

        It gets no gradient: DDP would raise, and the optimiser would still decay it.
        """
        last = config.network.taps[-1]
        if last == len(module.layers) - 1:
            return ""
        module.layers[last + 1 :].requires_grad_(False)
        if module.final_norm:
            module.norm1.requires_grad_(False)
        return f"; blocks behind block {last}, the last tap, are frozen"

    def layer_decay(self, backbone: Backbone, rate: float) -> dict[str, Any]:
        blocks = family_of(backbone.model).blocks(backbone.model)
        layers = {"num_layers": blocks, "decay_rate": rate, "decay_type": "layer_wise"}
        return {"constructor": "QuietLayerDecay", "paramwise_cfg": layers}


def _positions(backbone: Backbone, embedding: Tensor, grid: tuple[int, int]) -> tuple[Tensor, list[str]]:
    """Position embeddings on the crops' grid, and a note where they were resized."""
    rule, side = backbone.config.pos_resize, round((embedding.shape[1] - 1) ** 0.5)
    if (side, side) == grid:
        return embedding, []
    resized = resize_positions(embedding, (side, side), grid, 1, rule)
    return resized, [f"position embeddings resized from {side * side} to {grid[0]}×{grid[1]} positions (rule {rule})"]


@dataclass(frozen=True)
class _Resize:
    """Stand-in for the method of MMSegmentation's ViT that resizes position embeddings for images of another size."""

    rule: PosResize

    def __call__(self, embedding: Tensor, grid: tuple[int, int], own: tuple[int, int], mode: str) -> Tensor:
        """[1, 1 + h·w, D] of the grid `own` for another `grid`; `mode`, MMSegmentation's interpolation, is ignored."""
        return resize_positions(embedding, own, grid, 1, self.rule)


ADAPTERS = (VitAdapter(),)
