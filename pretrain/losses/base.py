"""Interface of the losses: what a pass through the network gives, and the parts of an objective or auxiliary loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from core.backbones import Family, family_of
from pretrain.heads import HeadConfig
from pretrain.views.config import ViewConfig

Parameters = Mapping[str, np.ndarray]
"""Parameters of a view of a batch by name, arrays [B, …] on the CPU."""
Draw = Callable[[ViewConfig, np.random.Generator], dict[str, np.ndarray]]
"""Random numbers of a loss for one view of one sample, drawn in a loader worker: arrays by name."""

Picture = Callable[[Tensor, Parameters], Tensor]
"""Pictures [B, 3, S, S] of what a loss makes of views [B, 3, S, S], both in 0 … 1, for `--show-views`."""


@dataclass(frozen=True)
class Progress:
    """Position within the run."""

    step: int = 0
    """Steps done before this one."""
    per_epoch: int = 1
    """Steps per epoch."""
    total: int = 1
    """Steps of the whole run."""

    @property
    def epoch(self) -> float:
        """Epochs done before this step, a fraction within an epoch."""
        return self.step / self.per_epoch


class Encoder(nn.Module):
    """A backbone with heads on top, each an attribute by its name; the target network has the averaged heads only."""

    def __init__(self, backbone: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.family: Family = family_of(backbone)
        for name, head in heads.items():
            self.add_module(name, head)

    def get_head(self, name: str) -> nn.Module:
        """The head called `name`."""
        head = getattr(self, name)
        assert isinstance(head, nn.Module)
        return head

    def vector(self, images: Tensor) -> Tensor:
        """[R, 3, H, W] normalised -> the family's default vector [R, D]."""
        return self.family.vector(self.backbone, images, "auto")


@dataclass(frozen=True)
class Encoded:
    """Results of one pass of R images; heads may add tensors whose first axis is R."""

    vector: Tensor | None = None
    """Vectors of the images, [R, D]."""
    patches: Tensor | None = None
    """Patch tokens, row by row, [R, N, D]."""
    grid: tuple[int, int] = (0, 0)
    """Rows and columns of patches; their product is N."""
    heads: dict[str, Tensor] = field(default_factory=dict)
    """Outputs of heads by name, e.g. `projection`, [R, …]."""

    def rows(self, part: slice) -> Encoded:
        """The same for some of the images."""
        heads = {name: values[part] for name, values in self.heads.items()}
        vector, patches = (None if x is None else x[part] for x in (self.vector, self.patches))
        return Encoded(vector, patches, self.grid, heads)


@dataclass(frozen=True)
class Outputs:
    """One view of a batch after its pass: outputs of the network, and how the view was made."""

    view: str
    """View type."""
    index: int
    """Number of the view within its type."""
    encoded: Encoded
    """Outputs of the network, first axis B."""
    parameters: Parameters = field(default_factory=dict)
    """Crop box, flip and the other parameters of the view."""

    def __getitem__(self, head: str) -> Tensor:
        """Output of a head, [B, …]."""
        return self.encoded.heads[head]

    @property
    def box(self) -> np.ndarray:
        """Crop in pixels of the decoded image, float32 [B, 4]: left, top, width, height."""
        return self.parameters["box"]

    @property
    def flip(self) -> np.ndarray:
        """True where the view is mirrored, bool [B]."""
        return self.parameters["flip"]

    def with_head(self, name: str, values: Tensor) -> Outputs:
        """The view with a further head output, [B, …]."""
        return replace(self, encoded=replace(self.encoded, heads=self.encoded.heads | {name: values}))

    def detached(self) -> Outputs:
        """The head outputs without gradient, as a target sees them."""
        heads = {name: full(values.detach()) for name, values in self.encoded.heads.items()}
        return replace(self, encoded=Encoded(grid=self.encoded.grid, heads=heads))

    def in_full_precision(self) -> Outputs:
        """The head outputs in fp32 or better."""
        heads = {name: full(values) for name, values in self.encoded.heads.items()}
        return replace(self, encoded=replace(self.encoded, heads=heads))


def full(values: Tensor) -> Tensor:
    """At least fp32, whatever precision the network ran in."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


@dataclass(frozen=True)
class Context:
    """Everything that a loss may know when it is built."""

    views: Mapping[str, ViewConfig]
    """View types of the loss: those of the objective, or the one that an auxiliary loss names."""
    backbone: nn.Module
    """Online backbone."""
    width: int
    """Length of its vectors."""
    name: str = ""
    """Name of the loss, for messages."""
    options: Any = None
    """Options of the loss, its file's `Config`."""
    rank: int = 0
    """Rank of this process."""
    projector: HeadConfig = field(default_factory=HeadConfig)
    """Head on the backbone; for objectives that use it."""
    predictor: HeadConfig = field(default_factory=HeadConfig)
    """Head on the projector; for objectives that use it."""
    predictors: Literal["per_view", "shared"] = "per_view"
    """One predictor per view type, or one for all."""
    temperature: float = 1.0
    """Temperature of a softmax over similarities; for objectives that have one."""


class Loss(nn.Module):
    """Common part: heads that are trained, and buffers (centres, queues) that the training state keeps."""

    NOTE: ClassVar[str] = ""
    """Caveat that is shown with the loss in the plan of a run, e.g. that its definition is our own."""
    heads: nn.ModuleDict
    """Heads by name; they become parts of the networks."""

    def __init__(self, context: Context) -> None:
        """Builds the heads. Raises ValueError where the loss doesn't fit the backbone or the views."""
        super().__init__()
        self.context = context
        self.heads = nn.ModuleDict()

    @classmethod
    def check_views(cls, views: Mapping[str, ViewConfig]) -> None:
        """Raises ValueError, naming the key, where the loss can't work with its view types."""

    def memory(self) -> dict[str, Tensor]:
        """Persistent buffers registered on the loss itself, which the training state keeps; not those of modules."""
        kept = ((n, b) for n, b in self.named_buffers(recurse=False) if n not in self._non_persistent_buffers_set)
        return dict(kept)

    def restore(self, memory: Mapping[str, Tensor]) -> None:
        """Takes over the buffers that `memory` returned. Raises KeyError for a missing one."""
        for name, buffer in self.memory().items():
            buffer.copy_(memory[name])

    def health(self) -> dict[str, Tensor]:
        """Scalars of the last step on the device that show whether training goes well, e.g. `spread`."""
        return {}


class Objective(Loss):
    """Loss of the views against targets: exactly one per run.

    A step calls `encode_target` and `prepare` for the targets, then for each group of views that pass together
    `encode`, `predict` (both in the networks' precision) and `forward`, and `observe` at the end. Each group has its
    own backward pass, so `forward` returns the group's share of each term; a `JOINT` objective needs all its views in
    one group.
    """

    USES: ClassVar[frozenset[str]] = frozenset()
    """Top-level keys of a recipe that the objective reads: `projector`, `predictor`, `predictors`, `temperature`."""
    TARGETS: ClassVar[tuple[str, ...]] = ("ema",)
    """Possible values of `target.kind`."""
    AVERAGED: ClassVar[tuple[str, ...]] = ()
    """Names of the heads that the momentum network has, too."""
    JOINT: ClassVar[bool] = False
    """True if all views must be in one graph."""
    STATIC: ClassVar[bool] = False
    """True if passes and losses of a step depend on its images alone: not on the progress, on parameters of views or on
    random numbers. Such a step can be captured as a CUDA graph."""
    FACTS: ClassVar[Mapping[str, str]] = {}
    """Facts about the exported backbone that its file should record."""

    @property
    def terms(self) -> list[str]:
        """Names of the terms that `forward` returns over all groups together."""
        return list(self.context.views)

    @property
    def view_types(self) -> list[str]:
        """View types that pass through the online network."""
        return list(self.context.views)

    @property
    def target_types(self) -> list[str]:
        """View types that pass through the target network."""
        return []

    def encode(self, network: Encoder, images: Tensor, mask: Tensor | None = None) -> Encoded:
        """One pass of the online network: [R, 3, S, S] -> `Encoded`; `mask`: rows of `masks`."""
        raise NotImplementedError

    def encode_target(self, network: Encoder, images: Tensor) -> Encoded:
        """One pass of the target network without gradient."""
        return self.encode(network, images)

    def masks(self, parameters: Parameters, view: str) -> np.ndarray | None:
        """Masks [B, …] that `encode` gets for a view; none: the view has none."""
        return None

    def predict(self, outputs: Sequence[Outputs]) -> list[Outputs]:
        """Heads that work on a whole group of views, such as a predictor per view type."""
        return list(outputs)

    def prepare(self, targets: Sequence[Outputs], progress: Progress) -> Any:
        """Targets as `forward` compares with them; without gradient, called once per step."""
        return targets

    def forward(self, outputs: Sequence[Outputs], targets: Any, progress: Progress) -> dict[str, Tensor]:
        """Terms of a group of views: {name: weighted scalar}; sums over groups are the terms of the loss."""
        raise NotImplementedError

    def observe(self) -> None:
        """Updates buffers after all groups of a step, e.g. a centre."""

    def collapse(self, values: Mapping[str, float]) -> str:
        """Reason why health `values` mean a collapse, as half a sentence; empty for a healthy run."""
        return ""


class Auxiliary(Loss):
    """Plug-in to any objective: further views through the online backbone, a head of its own, a weight λ(epoch).

    It sees nothing of the objective. Its head is built last, and its random numbers come from streams
    of their own, so that the rest of a run does not depend on it.
    """

    @property
    def view(self) -> str:
        """View type whose views it gets."""
        return next(iter(self.context.views))

    @property
    def terms(self) -> list[str]:
        """Names of the terms that `forward` returns."""
        return [self.context.name]

    def inputs(self, images: Sequence[Tensor], parameters: Sequence[Parameters]) -> Tensor:
        """Images that pass together: the views [B, 3, S, S] of the view type -> [R, 3, S, S]."""
        return torch.cat(list(images))

    def forward(self, vectors: Tensor, parameters: Sequence[Parameters], progress: Progress) -> dict[str, Tensor]:
        """Terms from the vectors [R, D] of `inputs`, in fp32 or better: {name: scalar without λ}."""
        raise NotImplementedError
