"""The method: online network, target network, and the multi-task latent-space loss over view types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain

import torch
from torch import Tensor, nn

from core.backbones import build_backbone, family_of, feature_width
from core.memory_layout import training_layout
from core.sync_norm import synchronise_norms
from pretrain.config import GLOBAL, PretrainConfig, pairs
from pretrain.heads import build_head
from pretrain.objectives import distance, prepare_target

SHARED = "shared"

Group = Sequence[tuple[str, int, Tensor]]
"""Views that pass through the network together: type, index within the type, images [B, 3, S, S]."""


class Encoder(nn.Module):
    """Backbone and projector, the part that online and target network share."""

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector
        self.family = family_of(backbone)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] normalised -> projections [B, D]."""
        return self.projector(self.family.vector(self.backbone, images, "auto"))


class Online(nn.Module):
    """The trained network: an encoder and one predictor per view type, or one shared by all."""

    def __init__(self, encoder: Encoder, predictors: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = encoder.backbone
        self.projector = encoder.projector
        self.family = encoder.family
        self.predictors = nn.ModuleDict(predictors)

    def project(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] normalised -> projections [B, D]."""
        return self.projector(self.family.vector(self.backbone, images, "auto"))

    def predict(self, projections: Tensor, view_type: str) -> Tensor:
        """[B, D] -> predictions [B, D] by the predictor of the view type."""
        return self.predictors[SHARED if SHARED in self.predictors else view_type](projections)


class Method:
    """objective × target × view types.

    L = Σ over view types v of weight_v · mean over (view x of type v, global target t not the same view) of
    D(predictor_v(z(x)), sg(z_target(t))). arXiv 2602.05845, section 3.
    """

    def __init__(self, config: PretrainConfig, device: torch.device, rank: int = 0) -> None:
        """Builds both networks from torch's global RNG; equal seeds give equal weights on every rank."""
        self.config, self.device, self.rank = config, device, rank
        # A type without pairs (a single global view) makes targets but no predictions.
        self.types = [name for name in config.views if pairs(config.views, name)]
        online = _encoder(config, config.drop_path)
        names = [SHARED] if config.predictors == "shared" else self.types
        width = config.projector.widths[-1]
        self.online = Online(online, {name: build_head(width, config.predictor) for name in names})
        self.target: Encoder | None = None
        if config.target.kind == "ema":
            self.target = _encoder(config, drop_path=0.0)
            self.target.load_state_dict(_encoder_state(self.online))
            self.target.requires_grad_(False)
        self.layout = training_layout(self.online, device, config.compute.channels_last)
        """Memory layout of the networks, and of the views that they expect."""
        for network in self.networks():
            if config.compute.sync_bn:
                synchronise_norms(network, device)
            network.to(device=device, memory_format=self.layout)  # type: ignore[call-overload]
            network.train()
        # Compile the functions themselves: the modules below them are not called through __call__.
        self._project = torch.compile(self.online.project) if config.compute.compile else self.online.project
        self._target_project = self._project if self.target is None else self.target.forward
        if self.target is not None and config.compute.compile:
            self._target_project = torch.compile(self.target.forward)
        self._averages: list[Tensor] = [] if self.target is None else list(self.target.parameters())
        self.targets: Sequence[Tensor] = []
        """Targets of the last step, for each global view [B, D] (MoCo v3: of all ranks)."""
        self._sources: list[Tensor] = [*self.online.backbone.parameters(), *self.online.projector.parameters()]

    def networks(self) -> list[nn.Module]:
        """The online network and, where there is one, the momentum network."""
        return [self.online] if self.target is None else [self.online, self.target]

    @torch.no_grad()
    def update_target(self, momentum: float) -> None:
        """target ← momentum · target + (1 − momentum) · online; norm statistics stay the target's own.

        Called before the step, as in MoCo v3's code: the exported momentum network is one update behind.
        """
        if self._averages:
            torch._foreach_lerp_(self._averages, self._sources, 1 - momentum)

    def backward(
        self, views: Mapping[str, Sequence[Tensor]], scaler: torch.amp.GradScaler | None = None
    ) -> dict[str, Tensor]:
        """Adds the gradients of L to the online network's parameters.

        `views`: per view type its normalised images [B, 3, S, S]. Returns each view type's weighted term of L as a
        detached scalar on the device; their sum is L. Nothing is read back to the host.
        """
        groups = self._groups(views)
        targets, passes = self._targets_and_passes(views[GLOBAL], groups)
        self.targets = targets
        losses: dict[str, Tensor] = {}
        for group, projections in passes:
            terms = {
                name: self._term(name, indices, predictions, targets)
                for name, (indices, predictions) in self._predictions(group, projections).items()
            }
            for name, term in terms.items():
                losses[name] = losses.get(name, 0) + term.detach()
            loss = torch.stack(list(terms.values())).sum()
            (loss if scaler is None else scaler.scale(loss)).backward()
        return losses

    def _targets_and_passes(
        self, global_views: Sequence[Tensor], groups: Sequence[Group]
    ) -> tuple[list[Tensor], Iterable[tuple[Group, Sequence[Tensor]]]]:
        """Targets, and an iterator over groups with their projections, which are computed on demand."""
        if self.target is not None or GLOBAL not in self.types:
            return self._targets(global_views), ((group, self._projections(group)) for group in groups)
        # Without a momentum network z(x) itself is the target: one pass serves both, so that norm statistics and
        # stochastic depth see each view once. All global views pass before the first backward pass.
        projected = [(group, self._projections(group)) for group in groups if _has_global(group)]
        own = {
            index: prepare_target(self.config.objective, _full(projection.detach()))
            for group, projections in projected
            for (name, index, _), projection in zip(group, projections, strict=True)
            if name == GLOBAL
        }
        rest = ((group, self._projections(group)) for group in groups if not _has_global(group))
        return [own[index] for index in sorted(own)], chain(projected, rest)

    def _projections(self, group: Group) -> Sequence[Tensor]:
        """One pass of a group: the projections [B, D] of each of its views."""
        with self._autocast():
            return self._project(torch.cat([images for _, _, images in group])).split(len(group[0][2]))

    def _predictions(self, group: Group, projections: Sequence[Tensor]) -> dict[str, tuple[list[int], list[Tensor]]]:
        """Per view type the indices of its views in the group and their fp32 predictions [B, D]."""
        found = {}
        with self._autocast():
            for name in dict.fromkeys(view_type for view_type, _, _ in group):
                rows = [row for row, (view_type, _, _) in enumerate(group) if view_type == name]
                predictions = self.online.predict(torch.cat([projections[row] for row in rows]), name)
                found[name] = ([group[row][1] for row in rows], list(_full(predictions).split(len(group[0][2]))))
        return found

    def _term(self, name: str, indices: list[int], predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """The part of view type `name`'s weighted mean that the views `indices` of it contribute."""
        total = torch.zeros((), device=self.device)
        for index, prediction in zip(indices, predictions, strict=True):
            for other, target in enumerate(targets):
                if name != GLOBAL or other != index:
                    total = total + distance(self.config.objective, prediction, target, self.rank)
        return total * (self.config.views[name].weight / pairs(self.config.views, name))

    @torch.no_grad()
    def _targets(self, images: Sequence[Tensor]) -> list[Tensor]:
        with self._autocast():
            if self.config.compute.backward == "packed":
                projections = list(self._target_project(torch.cat(list(images))).split(len(images[0])))
            else:
                projections = [self._target_project(view) for view in images]
        return [prepare_target(self.config.objective, _full(projection)) for projection in projections]

    def _groups(self, views: Mapping[str, Sequence[Tensor]]) -> list[Group]:
        """Views as (type, index, images), in the groups that pass through the network together."""
        flat = [(name, index, images) for name in self.types for index, images in enumerate(views[name])]
        if self.config.compute.backward == "per_view":
            return [[view] for view in flat]
        by_size: dict[int, list[tuple[str, int, Tensor]]] = {}
        for view in flat:
            by_size.setdefault(view[2].shape[-1], []).append(view)
        return list(by_size.values())

    def _autocast(self) -> AbstractContextManager[object]:
        precision = self.config.compute.precision
        if precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if precision == "bf16" else torch.float16)


def _encoder(config: PretrainConfig, drop_path: float) -> Encoder:
    backbone = build_backbone(config.backbone, drop_path)
    return Encoder(backbone, build_head(feature_width(backbone), config.projector))


def _has_global(group: Group) -> bool:
    return any(name == GLOBAL for name, _, _ in group)


def _full(values: Tensor) -> Tensor:
    """At least fp32, whatever precision the network ran in."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _encoder_state(online: Online) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in online.state_dict().items() if not name.startswith("predictors.")}
