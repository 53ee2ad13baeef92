"""The method: online network, target network, one objective and any number of auxiliary losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from core.backbones import build_backbone
from core.backbones.vit_start import build_started
from core.compute.memory_layout import training_layout
from core.compute.shards import local
from core.compute.sync_norm import synchronise_norms
from pretrain import losses
from pretrain.build_losses import build_auxiliaries, build_objective
from pretrain.config import PretrainConfig
from pretrain.losses.base import Encoded, Encoder, Outputs, Parameters, Progress, full


class Pass(NamedTuple):
    """One of the backward passes of a step, about to start."""

    loss: Tensor
    """Scalar from which it starts."""
    terms: tuple[str, ...]
    """Names of the terms of the loss that it is made of."""
    left: int
    """Number of passes that follow it."""


class _View(NamedTuple):
    """One view of a batch, before its pass."""

    name: str
    """View type."""
    number: int
    """Number within the type."""
    images: Tensor
    """Normalised images [B, 3, S, S]."""
    parameters: Parameters
    """Parameters of the view, arrays [B, …]; empty where nothing needs them."""


_Group = Sequence[_View]
"""Views that pass through the network together."""


class Method:
    """Objective × target × view types, plus Σ λ(epoch) · auxiliary loss."""

    def __init__(self, config: PretrainConfig, device: torch.device, rank: int = 0) -> None:
        """Builds all networks from torch's global RNG; equal seeds give equal weights on every rank.

        Raises `UserError` where a loss doesn't fit the backbone or the views.
        """
        self.config, self.device, self.rank = config, device, rank
        backbone = build_started(config.backbone, config.vit_start, config.drop_path)
        self.objective = build_objective(config, backbone, rank)
        self.online = Encoder(backbone, dict(self.objective.heads.items()))
        self.target: Encoder | None = None
        if config.target.kind == "ema":
            averaged = build_objective(config, build_backbone(config.backbone), rank)
            self.target = Encoder(
                averaged.context.backbone, {name: averaged.heads[name] for name in self.objective.AVERAGED}
            )
            online = self.online.state_dict()
            self.target.load_state_dict({name: online[name] for name in self.target.state_dict()})
            self.target.requires_grad_(False)
        # Last, so that no other weight depends on them.
        self.auxiliaries = build_auxiliaries(config, backbone, rank)
        if self.auxiliaries:
            heads = nn.ModuleDict({name: loss.heads for name, loss in self.auxiliaries.items()})
            self.online.add_module("auxiliary", heads)
        self.layout = training_layout(self.online, device, config.compute.channels_last)
        """Memory layout of the networks, and of the views that they expect."""
        for network in self.networks():
            if config.compute.sync_bn:
                synchronise_norms(network, device)
            network.to(device=device, memory_format=self.layout)  # type: ignore[call-overload]
            network.train()
        for loss in self.losses().values():
            loss.to(device).train()
        # Compile the functions themselves: the modules below them are not called through __call__.
        whole = config.compute.compile and config.compute.shard == "none"  # sharded blocks are compiled alone
        compiled: Callable = torch.compile if whole else lambda function: function
        self._encode = compiled(lambda images, mask: self.objective.encode(self.online, images, mask))
        self._encode_target = compiled(lambda images: self.objective.encode_target(self.target or self.online, images))
        self._vector = compiled(self.online.vector)
        self.pair_averages()

    @property
    def terms(self) -> list[str]:
        """Names of the terms of the loss, in the order in which they are logged."""
        return [*self.objective.terms, *(term for loss in self.auxiliaries.values() for term in loss.terms)]

    def networks(self) -> list[nn.Module]:
        """The online network and, where there is one, the momentum network."""
        return [self.online] if self.target is None else [self.online, self.target]

    def losses(self) -> dict[str, losses.Loss]:
        """The objective as `objective`, and the auxiliary losses by name."""
        return {"objective": self.objective, **self.auxiliaries}

    def health(self) -> dict[str, Tensor]:
        """Scalars of the last step by name, on the device: the objective's, and the auxiliary losses' as `NAME/…`."""
        values = self.objective.health()
        for name, loss in self.auxiliaries.items():
            values |= {f"{name}/{key}": value for key, value in loss.health().items()}
        return values

    def pair_averages(self) -> None:
        """Finds the tensors of `update_target`, again where they were replaced: of sharded ones this rank's parts."""
        online = dict(self.online.named_parameters())
        averages = {} if self.target is None else dict(self.target.named_parameters())
        self._averages = [local(average) for average in averages.values()]
        self._sources = [local(online[name]) for name in averages]

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """target ← momentum · target + (1 − momentum) · online; norm statistics stay the target's own.

        Called before the step, as in MoCo v3's code: the exported momentum network is one update behind.
        """
        if self._averages:
            torch._foreach_lerp_(self._averages, self._sources, 1 - momentum)

    def backward(
        self,
        views: Mapping[str, Sequence[Tensor]],
        scaler: torch.amp.GradScaler | None = None,
        parameters: Mapping[str, Sequence[Parameters]] | None = None,
        progress: Progress = Progress(),  # noqa: B008  (frozen)
        before: Callable[[Pass], None] | None = None,
    ) -> dict[str, Tensor]:
        """Adds the gradients of the loss to the online network's parameters.

        `views`: per view type its normalised images [B, 3, S, S]; `parameters`: those of the views, needed by losses
        that read them. `before` is called before each backward pass. Returns each weighted term of the loss as a
        detached scalar on the device; their sum is the loss. Nothing is read back to the host.
        """
        found: dict[str, Tensor] = {}
        left = 0

        def add(terms: Mapping[str, Tensor]) -> None:
            nonlocal left
            for name, term in terms.items():
                found[name] = found.get(name, 0) + term.detach()
            loss = torch.stack(list(terms.values())).sum()
            loss = loss if scaler is None else scaler.scale(loss)
            left -= 1
            if before is not None:
                before(Pass(loss, tuple(terms), left))
            loss.backward()

        known = parameters or {name: [{}] * len(images) for name, images in views.items()}
        groups = self._groups(views, known, self.objective.view_types)
        weights = {name: self.config.auxiliary[name].weight_at(progress.epoch) for name in self.auxiliaries}
        left = len(groups) + sum(weight != 0 for weight in weights.values())
        targets, passes = self._targets_and_passes(views, known, groups, progress)
        for outputs in passes:
            with self._autocast():
                outputs = self.objective.predict(outputs)
            add(self.objective([view.in_full_precision() for view in outputs], targets, progress))
        self.objective.observe()
        for name, loss in self.auxiliaries.items():
            weight = weights[name]
            if weight == 0:  # a pass would change norm statistics and the random state for nothing
                found |= {term: torch.zeros((), device=self.device) for term in loss.terms}
                continue
            of_view = known[loss.view]
            with self._autocast():
                vectors = self._vector(loss.inputs(views[loss.view], of_view))
            add({term: weight * value for term, value in loss(full(vectors), of_view, progress).items()})
        return found

    @torch.no_grad()
    def project(
        self, views: Mapping[str, Sequence[Tensor]], parameters: Mapping[str, Sequence[Parameters]]
    ) -> tuple[list[list[Outputs]], object]:
        """Outputs of each group of views before the heads of `predict`, and prepared targets, as in a step.

        Norms use and update statistics as in training.
        """
        groups = self._groups(views, parameters, self.objective.view_types)
        targets, passes = self._targets_and_passes(views, parameters, groups, Progress())
        return [[view.detached() for view in outputs] for outputs in passes], targets

    def _targets_and_passes(
        self,
        views: Mapping[str, Sequence[Tensor]],
        parameters: Mapping[str, Sequence[Parameters]],
        groups: Sequence[_Group],
        progress: Progress,
    ) -> tuple[object, Iterable[list[Outputs]]]:
        """Prepared targets, and an iterator over the outputs of groups, which are computed on demand."""
        types = self.objective.target_types
        if self.target is not None or not set(types) & set(self.objective.view_types):
            return self._targets(views, parameters, types, progress), (self._outputs(group) for group in groups)
        # Without a momentum network z(x) itself is the target: one pass serves both, so that norm statistics and
        # stochastic depth see each view once. All target views pass before the first backward pass.
        first = [self._outputs(group) for group in groups if _holds(group, types)]
        own = [view for outputs in first for view in outputs if view.view in types]
        rest = (self._outputs(group) for group in groups if not _holds(group, types))
        return self._prepared(own, types, progress), chain(first, rest)

    def _prepared(self, outputs: Sequence[Outputs], types: Sequence[str], progress: Progress) -> object:
        """What the objective makes of the targets, in the order of their types and numbers."""
        ordered = sorted(outputs, key=lambda view: (types.index(view.view), view.index))
        return self.objective.prepare([view.detached() for view in ordered], progress)

    def _outputs(self, group: _Group) -> list[Outputs]:
        """One pass of a group through the online network."""
        drawn = [self.objective.masks(view.parameters, view.name) for view in group]
        mask = None
        if any(rows is not None for rows in drawn):
            assert all(rows is not None for rows in drawn), "views with and without masks pass apart"
            mask = torch.from_numpy(np.concatenate([rows for rows in drawn if rows is not None]))
            mask = mask.to(self.device, non_blocking=True)
        with self._autocast():
            return _split(group, self._encode(_stack(group), mask))

    @torch.no_grad()
    def _targets(
        self,
        views: Mapping[str, Sequence[Tensor]],
        parameters: Mapping[str, Sequence[Parameters]],
        types: Sequence[str],
        progress: Progress,
    ) -> object:
        outputs: list[Outputs] = []
        with self._autocast():
            for group in self._groups(views, parameters, types):
                outputs += _split(group, self._encode_target(_stack(group)))
        return self._prepared(outputs, types, progress)

    def _groups(
        self,
        views: Mapping[str, Sequence[Tensor]],
        parameters: Mapping[str, Sequence[Parameters]],
        types: Sequence[str],
    ) -> list[_Group]:
        """Views of some types in the groups that pass through a network together."""
        flat = [
            _View(name, number, images, of_view)
            for name in types
            for number, (images, of_view) in enumerate(zip(views[name], parameters[name], strict=True))
        ]
        if self.config.compute.backward == "per_view":
            return [[view] for view in flat]
        alike: dict[tuple[int, bool], list[_View]] = {}
        for view in flat:
            masked = self.objective.masks(view.parameters, view.name) is not None
            alike.setdefault((view.images.shape[-1], masked), []).append(view)
        return list(alike.values())

    def _autocast(self) -> AbstractContextManager[object]:
        precision = self.config.compute.precision
        if precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def _stack(group: _Group) -> Tensor:
    """Images of a group, [R, 3, S, S]."""
    return group[0].images if len(group) == 1 else torch.cat([view.images for view in group])


def _split(group: _Group, encoded: Encoded) -> list[Outputs]:
    """Outputs of each view of a group that passed together."""
    batch = len(group[0].images)
    return [
        Outputs(view.name, view.number, encoded.rows(slice(place * batch, (place + 1) * batch)), view.parameters)
        for place, view in enumerate(group)
    ]


def _holds(group: _Group, types: Sequence[str]) -> bool:
    return any(view.name in types for view in group)
