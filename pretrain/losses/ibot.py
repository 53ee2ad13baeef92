"""iBOT: DINO, plus the same loss on the patches that the online network does not see (arXiv 2111.07832)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from core.backbones import family_of
from pretrain.losses import dino
from pretrain.losses.base import Context, Encoded, Encoder, Outputs, Parameters, Progress
from pretrain.losses.shared.patch_prototypes import PatchDino
from pretrain.losses.shared.prototypes import TeacherConfig, cross_entropy
from pretrain.views.config import GLOBAL, ViewConfig

_TRIES = 10
_SMALLEST_BLOCK = 4


@dataclass(frozen=True)
class Config(dino.Config):
    """Options of iBOT; the head serves the class token and the patches."""

    patch_teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """Sharpening and centring of the patch targets."""
    patch_weight: float = 1.0
    """Weight of the patch term."""
    patch_size: int = 16
    """Side in pixels of the backbone's patches."""
    mask_share: tuple[float, float] = (0.1, 0.5)
    """Share of the patches that a masked view hides, drawn uniformly between the two."""
    masked_views: float = 0.5
    """Share of the global views that are masked; local views never are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.mask_share[0] <= self.mask_share[1] < 1:
            raise ValueError(f"mask_share must be (min, max) with 0 < min ≤ max < 1, not {self.mask_share}")
        if not 0 < self.masked_views <= 1:
            raise ValueError(f"masked_views must lie in (0, 1], not {self.masked_views}")
        if not 0 <= self.patch_weight < math.inf or self.patch_size < 1:
            raise ValueError("patch_weight must not be negative, and patch_size must be at least 1")


def draw(config: Config, view: ViewConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """`mask`: bool [N], True for the hidden patches, row by row; none is hidden in a view that is not masked.

    Rectangles of random size and place until the drawn number is hidden, as in BEiT (arXiv 2106.08254, algorithm 1);
    single patches where no further rectangle fits.
    """
    side = view.size // config.patch_size
    mask = np.zeros((side, side), dtype=bool)
    if rng.random() < config.masked_views:
        wanted = round(rng.uniform(*config.mask_share) * mask.size)
        while (left := wanted - int(mask.sum())) > 0:
            if not _hide_block(mask, left, rng):
                free = np.flatnonzero(~mask)
                mask.flat[rng.choice(free, left, replace=False)] = True
    return {"mask": mask.ravel()}


def _hide_block(mask: np.ndarray, most: int, rng: np.random.Generator) -> bool:
    """Hides one rectangle that adds at most `most` patches; False where none was found."""
    side = len(mask)
    for _ in range(_TRIES):
        area = rng.uniform(min(_SMALLEST_BLOCK, most), most)
        ratio = math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
        height, width = (max(1, round(math.sqrt(area * factor))) for factor in (ratio, 1 / ratio))
        if height > side or width > side:
            continue
        top, left = int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1))
        block = mask[top : top + height, left : left + width]
        if 0 < block.size - int(block.sum()) <= most:
            block[:] = True
            return True
    return False


class MaskToken(nn.Module):
    """Learned embedding in place of hidden patches."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(width))

    @contextmanager
    def hiding(self, patch_embed: nn.Module, mask: Tensor) -> Iterator[None]:
        """Context in which `patch_embed` returns the token for the patches of `mask` (bool [R, N])."""

        def replace(_module: nn.Module, _inputs: Any, embedded: Tensor) -> Tensor:
            hidden = mask.view(*embedded.shape[:-1], 1)  # [R, h, w, 1] or [R, N, 1]
            return torch.where(hidden, self.token.to(embedded.dtype), embedded)

        handle = patch_embed.register_forward_hook(replace)
        try:
            yield
        finally:
            handle.remove()


class Targets(NamedTuple):
    """Targets of a step."""

    image: Any
    """Probabilities of the class tokens of the global views, [B, K] each."""
    patches: list[Tensor]
    """Probabilities of their patches, [B, N, K] each."""


class Ibot(PatchDino):
    """DINO on the class token, and weight · mean over global views of the patch term.

    The patch term of a view is the mean over images of the mean over hidden patches (0 where none is hidden) of
    −Σ q·log p, in which q comes from the same view, seen whole by the target network.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        family, backbone = family_of(context.backbone), context.backbone
        if family.architecture != "vit" or family.resolve_pooling(backbone, "auto") != "cls":
            raise ValueError(
                f"the loss is about patches and the class token of a plain ViT, and the backbone is {family.noun}"
                + (" without a class token" if family.architecture == "vit" else "")
            )
        if family.input_multiple(backbone) != (self.options.patch_size,) * 2:
            size = family.input_multiple(backbone)[0]
            raise ValueError(f"objective.options.patch_size must be the backbone's {size}")
        self.heads["mask"] = MaskToken(context.width)
        self.start_patch_centre(self.options.head.prototypes)
        self._patch_targets: list[Tensor] = []

    def masks(self, parameters: Parameters, view: str) -> np.ndarray | None:
        return parameters["ibot.mask"] if view == GLOBAL else None

    def encode(self, network: Encoder, images: Tensor, mask: Tensor | None = None) -> Encoded:
        if mask is None:
            return super().encode(network, images)
        token = network.get_head("mask")
        assert isinstance(token, MaskToken)
        with token.hiding(network.backbone.get_submodule("patch_embed"), mask):
            return self.encode_target(network, images)

    def encode_target(self, network: Encoder, images: Tensor) -> Encoded:
        tokens = network.family.tokens(network.backbone, images)
        vector = tokens.prefix[:, 0]
        heads = {"logits": network.get_head("head")(vector), "patch_logits": network.get_head("head")(tokens.patches)}
        return Encoded(vector, tokens.patches, tokens.grid, heads)

    def prepare(self, targets: Sequence[Outputs], progress: Progress) -> Targets:
        """Probabilities of the class tokens, and of the patches of the global views."""
        self._patch_logits = [target["patch_logits"] for target in targets]
        self._patch_targets = [self.patch_probabilities(logits, progress.epoch) for logits in self._patch_logits]
        return Targets(super().prepare(targets, progress), self._patch_targets)

    def forward(self, outputs: Sequence[Outputs], targets: Targets, progress: Progress) -> dict[str, Tensor]:
        terms = super().forward(outputs, targets.image, progress)
        for view in (view for view in outputs if view.view == GLOBAL):
            hidden = torch.from_numpy(view.parameters["ibot.mask"]).to(view["logits"].device, non_blocking=True)
            each = cross_entropy(targets.patches[view.index], self._log_p(view["patch_logits"])) * hidden
            term = (each.sum(1) / hidden.sum(1).clamp(min=1)).mean()
            share = self.options.patch_weight / self.context.views[GLOBAL].count
            terms["patch"] = terms.get("patch", 0) + share * term
        return terms

    def first_patches(self) -> Tensor:
        return self._patch_targets[0]


LOSS = Ibot
