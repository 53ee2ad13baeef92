"""What losses on patches add to DINO: a patch term, and a centre of the patch targets."""

from __future__ import annotations

import torch
from torch import Tensor

from pretrain.losses import dino
from pretrain.losses.shared.prototypes import measures, moved_centre, target_probabilities


class PatchDino(dino.Dino):
    """DINO with a term `patch` beside those of the view types; `options` have `patch_teacher` and `patch_weight`."""

    patch_centre: Tensor
    _patch_logits: list[Tensor]
    """Patch outputs of this step's targets, [B, N, K] each, which move the centre."""

    @property
    def terms(self) -> list[str]:
        return [*super().terms, "patch"]

    def start_patch_centre(self, prototypes: int) -> None:
        """Registers the centre, zeros [K]; to be called once all heads are built."""
        self.register_buffer("patch_centre", torch.zeros(prototypes))
        self._patch_logits = []

    def patch_probabilities(self, logits: Tensor, epoch: float) -> Tensor:
        """Targets of patches, [B, N, K], from a target's outputs."""
        temperature = self.options.patch_teacher.temperature_at(epoch)
        return target_probabilities(logits, self.patch_centre, temperature)

    def first_patches(self) -> Tensor:
        """Targets of the patches of the first global view of the last step, [B, N, K]."""
        raise NotImplementedError

    def observe(self) -> None:
        """Moves both centres."""
        super().observe()
        momentum = self.options.patch_teacher.centre_momentum
        self.patch_centre.copy_(moved_centre(self.patch_centre, self._patch_logits, momentum))
        self._patch_logits = []

    def health(self) -> dict[str, Tensor]:
        patches = measures(self.first_patches().flatten(0, 1))
        return super().health() | {f"patch_{name}": value for name, value in patches.items()}
