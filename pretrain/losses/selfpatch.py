"""SelfPatch: DINO on a pooled image vector, and the same loss for each patch against its neighbours (arXiv 2206.07990).

Settings and details follow the public code where the paper leaves them open.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from core.backbones import family_of
from pretrain.losses import dino
from pretrain.losses.base import Context, Encoded, Encoder, Outputs, Progress
from pretrain.losses.shared.class_attention import Aggregation, Border, most_similar
from pretrain.losses.shared.patch_prototypes import PatchDino
from pretrain.losses.shared.prototypes import PrototypeHead, PrototypeHeadConfig, TeacherConfig, cross_entropy
from pretrain.views.config import GLOBAL, ViewConfig


@dataclass(frozen=True)
class Config(dino.Config):
    """Options of SelfPatch."""

    patch_head: PrototypeHeadConfig = field(default_factory=lambda: PrototypeHeadConfig(prototypes=4096))
    """Head of the patches."""
    patch_teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """Sharpening and centring of the patch targets."""
    patch_weight: float = 0.1
    """Weight of the patch term."""
    neighbours: int = 4
    """Neighbours, of at most 8, that are pooled to the target of a patch: those most similar to it."""
    border: Border = "clip"
    """`clip`: patches at the border have the 3 or 5 neighbours within the image. `wrap`: opposite borders touch, as in
    the public code."""
    blocks: int = 2
    """Class-attention blocks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.neighbours <= 8:
            raise ValueError(f"neighbours must lie in 1 … 8, not {self.neighbours}")
        if not 0 <= self.patch_weight < math.inf or self.blocks < 1:
            raise ValueError("patch_weight must not be negative, and blocks must be at least 1")


class Targets(NamedTuple):
    """Targets of a step."""

    image: list[Tensor]
    """Probabilities of the global views, [B, K] each."""
    patches: Mapping[tuple[str, int], Tensor]
    """Probabilities of the patches of every view, by type and number: [B, N, K]."""


class SelfPatch(PatchDino):
    """DINO's pairs on the vector pooled from all patches, and weight · mean over all views of the patch term.

    The patch term of a view is the mean over its patches of −Σ q·log p: p of the patch itself, q of its most similar
    neighbours in the same view, chosen and pooled by the target network. The pooling is trained by the image term.
    The backbone's final norm serves patches and pooled vectors alike, so an exported backbone has it.
    """

    AVERAGED: ClassVar[tuple[str, ...]] = ("aggregation", "head", "patch_head")
    FACTS: ClassVar[Mapping[str, str]] = {"final_norm": "trained by the losses, on patches and pooled vectors"}

    @classmethod
    def check_views(cls, views: Mapping[str, ViewConfig]) -> None:
        if views[GLOBAL].count < 2:
            raise ValueError(f"views.{GLOBAL}.count must be at least 2 for selfpatch, not {views[GLOBAL].count}")

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        backbone: Any = context.backbone
        family = family_of(backbone)
        if family.architecture != "vit":
            raise ValueError(f"the loss is about patches of a plain ViT, and the backbone is {family.noun}")
        if getattr(backbone, "cls_token", None) is not None or not isinstance(backbone.norm, nn.LayerNorm):
            raise ValueError(
                "the ViT must have a final norm but no class token: set backbone.args.class_token=false and "
                "backbone.args.global_pool=''"
            )
        multiple = family.input_multiple(backbone)
        for name, view in context.views.items():
            grid = tuple(view.size // side for side in multiple)
            if min(grid) < 3:
                raise ValueError(
                    f"views.{name}.size {view.size} gives {grid[0]} × {grid[1]} patches, too few for neighbours; "
                    f"at least 3 × 3 are needed"
                )
        self.heads["aggregation"] = Aggregation(context.width, backbone.blocks[0].attn.num_heads, self.options.blocks)
        self.heads["patch_head"] = PrototypeHead(context.width, self.options.patch_head)
        self.start_patch_centre(self.options.patch_head.prototypes)
        self._patch_targets: dict[tuple[str, int], Tensor] = {}

    @property
    def target_types(self) -> list[str]:
        """All types: the patch term compares a view with itself."""
        return list(self.context.views)

    def encode(self, network: Encoder, images: Tensor, mask: Tensor | None = None) -> Encoded:
        raw, grid, norm = _last_block(network, images)
        vector, patches = norm(network.get_head("aggregation")(raw)), norm(raw)
        heads = {"logits": network.get_head("head")(vector), "patch_logits": network.get_head("patch_head")(patches)}
        return Encoded(vector, patches, grid, heads)

    def encode_target(self, network: Encoder, images: Tensor) -> Encoded:
        raw, grid, norm = _last_block(network, images)
        aggregation = network.get_head("aggregation")
        assert isinstance(aggregation, Aggregation)
        chosen = most_similar(raw, grid, self.options.neighbours, self.options.border)
        vector, patches = norm(aggregation(raw)), norm(aggregation.pool_neighbours(raw, grid, chosen))
        heads = {"logits": network.get_head("head")(vector), "patch_logits": network.get_head("patch_head")(patches)}
        return Encoded(vector, patches, grid, heads)

    def prepare(self, targets: Sequence[Outputs], progress: Progress) -> Targets:
        """Probabilities of the global views, and of the patches of all views. All views move the centres."""
        image = super().prepare([target for target in targets if target.view == GLOBAL], progress)
        self._logits = [target["logits"] for target in targets]
        self._patch_logits = [target["patch_logits"] for target in targets]
        self._patch_targets = {
            (target.view, target.index): self.patch_probabilities(target["patch_logits"], progress.epoch)
            for target in targets
        }
        return Targets(image, self._patch_targets)

    def forward(self, outputs: Sequence[Outputs], targets: Targets, progress: Progress) -> dict[str, Tensor]:
        terms = super().forward(outputs, targets.image, progress)
        share = self.options.patch_weight / sum(view.count for view in self.context.views.values())
        for view in outputs:
            target = targets.patches[view.view, view.index]
            term = share * cross_entropy(target, self._log_p(view["patch_logits"])).mean()
            terms["patch"] = terms.get("patch", 0) + term
        return terms

    def first_patches(self) -> Tensor:
        return self._patch_targets[GLOBAL, 0]


def _last_block(network: Encoder, images: Tensor) -> tuple[Tensor, tuple[int, int], nn.Module]:
    """Patches after the last block, before the final norm, [R, N, D]; their grid; the norm."""
    last = network.family.blocks(network.backbone) - 1
    ((_, on_grid),) = network.family.maps(network.backbone, images, [last])
    norm = network.backbone.norm
    assert isinstance(norm, nn.Module)
    return on_grid.flatten(2).transpose(1, 2), (on_grid.shape[2], on_grid.shape[3]), norm


LOSS = SelfPatch
