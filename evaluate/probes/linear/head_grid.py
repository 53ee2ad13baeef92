"""A grid of linear heads trained at once: every input's heads are one matrix product, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.distributed import in_group, sum_over_ranks
from evaluate.common.resumable import copy_exactly


@dataclass(frozen=True)
class HeadOptimConfig:
    name: Literal["sgd", "lars"] = "sgd"
    """Optimiser; LARS adapts the rate of each head's weight on its own."""
    momentum: float = 0.9
    """Momentum of both."""
    weight_decay: float = 0.0
    """Weight decay of the weights; biases have none."""
    trust: float = 0.001
    """LARS' η (arXiv 1708.03888, algorithm 1)."""
    adapt_bias: bool = False
    """LARS adapts the rate of each head's bias, too, once it isn't 0."""

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), not {self.momentum}")
        if self.weight_decay < 0 or self.trust <= 0:
            raise ValueError(f"weight_decay must be ≥ 0 and trust > 0, not {self.weight_decay} and {self.trust}")


class HeadGrid:
    """One head for each pair of an input (a slice of the feature vector) and a learning rate.

    Head number i · len(lrs) + j has input i and learning rate j. Each has its own softmax cross-entropy, so that the
    heads don't influence one another: the sum of the losses is what DINOv2 minimises (arXiv 2304.07193, section 7.1).
    Weights start from N(0, 0.01²), biases from 0; the start depends on the seed and the input's width alone, so that
    heads of one input differ by their learning rate only.
    """

    def __init__(
        self,
        inputs: Sequence[tuple[int, int]],
        lrs: Sequence[float],
        classes: int,
        optim: HeadOptimConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        """`inputs`: start and end of each slice. `lrs`: peak learning rates, as used."""
        self.inputs, self.classes, self.optim = tuple(inputs), classes, optim
        self.per_input, self.heads = len(lrs), len(inputs) * len(lrs)
        self._rates = torch.tensor(lrs, dtype=torch.float32, device=device)
        # Class-major, heads innermost: softmax over classes then runs along vectors of heads.
        self.weights = [
            _start(end - start, classes, seed).to(device)[:, :, None].repeat(1, 1, len(lrs)) for start, end in inputs
        ]
        self.biases = [torch.zeros(classes, len(lrs), device=device) for _ in inputs]
        self._weight_velocities = [torch.zeros_like(weight) for weight in self.weights]
        self._bias_velocities = [torch.zeros_like(bias) for bias in self.biases]

    def logits(self, features: Tensor, number: int) -> Tensor:
        """[B, F] -> [B, C, len(lrs)]: logits of the heads of input `number`."""
        start, end = self.inputs[number]
        flat = torch.addmm(self.biases[number].view(-1), features[:, start:end], self.weights[number].flatten(1))
        return flat.view(len(features), self.classes, self.per_input)

    @torch.no_grad()
    def step(self, features: Tensor, labels: Tensor, factor: float, total: int) -> None:
        """One step of every head with `factor` times its learning rate.

        features float32 [B, F], labels int64 [B]: this rank's part of a global batch of `total` images, over which the
        loss is the mean.
        """
        errors = []
        rows = torch.arange(len(labels), device=labels.device)
        for number in range(len(self.inputs)):
            error = self.logits(features, number).softmax(dim=1)
            error[rows, labels] -= 1
            errors.append(error.flatten(1).div_(total))
        if in_group() or self.optim.name == "lars" or self.optim.weight_decay:
            self._step_by_gradients(features, errors, factor)
            return
        # SGD alone: the product adds straight onto the velocity.
        for number, ((start, end), error) in enumerate(zip(self.inputs, errors, strict=True)):
            velocity = self._weight_velocities[number].flatten(1)
            velocity.addmm_(features[:, start:end].T, error, beta=self.optim.momentum)
            self._bias_velocities[number].mul_(self.optim.momentum).add_(error.sum(0).view(self.classes, -1))
            self._descend(number, factor)

    def _step_by_gradients(self, features: Tensor, errors: Sequence[Tensor], factor: float) -> None:
        flat = []
        for (start, end), error in zip(self.inputs, errors, strict=True):
            flat += [(features[:, start:end].T @ error).view(-1), error.sum(0)]
        pieces = sum_over_ranks(torch.cat(flat)).split([piece.numel() for piece in flat])
        for number, weight in enumerate(self.weights):
            update = pieces[2 * number].view_as(weight)
            if self.optim.weight_decay:
                update = update.add(weight, alpha=self.optim.weight_decay)
            bias_update = pieces[2 * number + 1].view_as(self.biases[number])
            if self.optim.name == "lars":
                update = update * self._trust_ratio(weight, update)
                if self.optim.adapt_bias:
                    bias_update = bias_update * self._trust_ratio(self.biases[number], bias_update)
            self._weight_velocities[number].mul_(self.optim.momentum).add_(update)
            self._bias_velocities[number].mul_(self.optim.momentum).add_(bias_update)
            self._descend(number, factor)

    def _trust_ratio(self, values: Tensor, update: Tensor) -> Tensor:
        """LARS' factor of each head, [len(lrs)]; 1 where the parameter or its update is 0."""
        own = tuple(range(values.ndim - 1))
        norms, update_norms = values.norm(dim=own), update.norm(dim=own)
        return torch.where((norms > 0) & (update_norms > 0), self.optim.trust * norms / update_norms, 1.0)

    def _descend(self, number: int, factor: float) -> None:
        rates = self._rates * factor
        self.weights[number].addcmul_(self._weight_velocities[number], rates, value=-1)
        self.biases[number].addcmul_(self._bias_velocities[number], rates, value=-1)

    def head(self, index: int) -> tuple[Tensor, Tensor]:
        """Weight [C, D] and bias [C] of head `index`, as in nn.Linear; copies."""
        number, rate = divmod(index, self.per_input)
        return self.weights[number][:, :, rate].T.contiguous(), self.biases[number][:, rate].clone()

    def state(self) -> dict[str, list[Tensor]]:
        """Everything needed to resume."""
        return {
            "weights": self.weights,
            "biases": self.biases,
            "weight_velocities": self._weight_velocities,
            "bias_velocities": self._bias_velocities,
        }

    def restore(self, state: dict[str, list[Tensor]]) -> None:
        """The inverse of `state`; `ValueError` or `KeyError` for a state of another grid."""
        for name, own in self.state().items():
            for mine, saved in zip(own, state[name], strict=True):
                copy_exactly(mine, saved, name)


def _start(width: int, classes: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(classes, width, generator=generator).mul_(0.01).T
