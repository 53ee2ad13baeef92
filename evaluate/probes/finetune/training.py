"""Fine-tuning a backbone and a linear head on labelled images, once for each learning rate."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from core.backbones import Backbone, feature_width, pooled_features
from core.compute.memory_layout import training_layout
from core.compute.precision import autocast
from core.compute.sync_norm import synchronise_norms
from core.data.base import ImageSet, read_ahead
from core.data.broken import BrokenImages
from core.data.order import GlobalBatches, batches_per_epoch
from core.distributed import average_gradients, broadcast_weights, gather_objects
from core.errors import UserError
from core.features import extract_features, normalised
from core.schedules import learning_rate_factor
from evaluate.common.context import RunContext
from evaluate.common.resumable import ProbeState
from evaluate.probes.accuracy import Accuracies, TopKAccuracy, scores_of
from evaluate.probes.finetune.protocol import FinetuneConfig, parameter_groups
from evaluate.probes.training_views import view_batches


class Network:
    """The backbone with a fresh head, and the optimiser of both."""

    def __init__(
        self, backbone: Backbone, start: dict[str, Tensor], classes: int, config: FinetuneConfig,
        rates: tuple[float, float], context: RunContext,
    ) -> None:  # fmt: skip
        """`start`: the weights to begin with; `rates`: peak learning rates of backbone and head.

        The head begins with N(0, 0.01²) and 0, by the seed.
        """
        self.model = backbone.model
        self.model.load_state_dict(start)
        self.head = nn.Linear(feature_width(self.model, config.features.pooling), classes)
        with torch.no_grad():
            self.head.weight.normal_(0, 0.01, generator=torch.Generator().manual_seed(context.seed))
            self.head.bias.zero_()
        self.head.to(context.device)
        self.layout = training_layout(self.model, context.device)
        """Memory layout of the crops that `logits` is trained on."""
        for part in (self.model, self.head):
            broadcast_weights(part)
        groups = parameter_groups(self.model, self.head, config)
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.optimiser: torch.optim.Optimizer
        if config.optim.name == "sgd":
            self.optimiser = torch.optim.SGD(groups, lr=rates[0], momentum=0.9, nesterov=True)
        else:
            self.optimiser = torch.optim.AdamW(groups, lr=rates[0])
        self._rates, self._pooling = rates, config.features.pooling

    def logits(self, model: nn.Module, crops: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, C]."""
        return self.head(pooled_features(model, crops, self._pooling))

    def set_rate(self, factor: float) -> None:
        """`factor` times the peak, by each group's scale."""
        for group in self.optimiser.param_groups:
            group["lr"] = self._rates[group.get("head", False)] * factor * group["scale"]

    def state(self) -> dict[str, Any]:
        """Everything needed to resume."""
        return {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        self.optimiser.load_state_dict(state["optimiser"])


def finetune(
    backbone: Backbone,
    train: ImageSet,
    val: ImageSet,
    config: FinetuneConfig,
    context: RunContext,
    unfinished: ProbeState,
) -> tuple[list[Accuracies], list[str], tuple[str, ...]]:
    """Scores after each epoch, one entry per pair of `config.rates()`; broken training images that were replaced;
    broken validation images that were left out.

    Batch norms are synchronised over ranks, so that several processes compute what one does, unless the protocol has
    norms of each process. Resumes from what `unfinished` holds. Raises `UserError` if the loss of an epoch's last step
    is not finite.
    """
    processes = context.processes
    start, rates = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}, config.rates()
    if processes.world_size > 1 and config.sync_norm:
        synchronise_norms(backbone.model, processes.device)
    broken = BrokenImages(len(train), config.features.broken_share)
    shared = _Shared(backbone, train, val, config, context, unfinished, broken)
    state = unfinished.load()
    if state:
        with unfinished.restoring():
            shared.done = done = [[scores_of(epoch, 1) for epoch in rate] for rate in state["history"]]
            if not 1 <= len(done) <= len(rates) or max(map(len, done)) > config.epochs:
                raise ValueError("scores of other learning rates or epochs")
            broken.add(map(str, state["broken"]))
            shared.left_out = tuple(map(str, state.get("left_out", ())))
        if processes.is_main:
            print(f"resuming after epoch {len(done[-1])} of learning rate {rate_text(rates[len(done) - 1])}")
    done = shared.done
    per_epoch = batches_per_epoch(len(train), config.batch, config.last_batch, processes.world_size)
    bar = tqdm(
        total=len(rates) * config.epochs * per_epoch, initial=sum(map(len, done)) * per_epoch,
        desc="fine-tuning", unit="step", disable=not processes.is_main, leave=False,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
    )  # fmt: skip
    with bar:
        while True:
            network = Network(backbone, start, len(train.classes), config, rates[len(done) - 1], context)
            if state:
                with unfinished.restoring():
                    network.restore(state["network"])
                state = None
            _train_one(network, shared, bar)
            if len(done) == len(rates):
                break
            done.append([])
    backbone.model.load_state_dict(start)  # what the result names is the backbone that was given
    epochs = [
        Accuracies(*(tuple(value for scores in rates for value in getattr(scores, field)) for field in _FIELDS))
        for rates in zip(*done, strict=True)
    ]
    return epochs, list(broken.names), shared.left_out


@dataclass
class _Shared:
    """State that the trainings with all learning rates share."""

    backbone: Backbone
    train: ImageSet
    val: ImageSet
    config: FinetuneConfig
    context: RunContext
    unfinished: ProbeState
    broken: BrokenImages
    """Training images that were replaced."""
    done: list[list[Accuracies]] = field(default_factory=lambda: [[]])
    """Scores by learning rate and epoch."""
    left_out: tuple[str, ...] = ()
    """Broken validation images of the last validation."""


_FIELDS = ("top1", "top5", "mean_per_class")


def rate_text(rates: tuple[float, float]) -> str:
    """`0.01`, or `0.01 (head 0.1)` where the head has a rate of its own."""
    return f"{rates[0]:g}" + (f" (head {rates[1]:g})" if rates[1] != rates[0] else "")


def _train_one(network: Network, shared: _Shared, bar: Any) -> None:
    """All (remaining) epochs of the last learning rate in `shared.done`; validates and saves after each."""
    backbone, train, config, context = shared.backbone, shared.train, shared.config, shared.context
    broken, done, processes, device = shared.broken, shared.done, context.processes, context.device
    per_epoch = batches_per_epoch(len(train), config.batch, config.last_batch, processes.world_size)
    step, rate = len(done[-1]) * per_epoch, rate_text(config.rates()[len(done) - 1])
    order = GlobalBatches(
        len(train), config.batch, config.epochs, context.seed, processes.rank, processes.world_size, step,
        getattr(train, "blocks", None), config.last_batch, partial(read_ahead, train),
    )  # fmt: skip
    size = config.features.transform.crop
    network.model.train()
    for pixels, labels, names in view_batches(train, config.augment, size, order, context):
        broken.add(names)
        network.set_rate(learning_rate_factor(config.schedule, step, per_epoch, config.epochs))
        with autocast(device, config.features.precision):
            crops = normalised(pixels.to(device, non_blocking=True), backbone.config)
            logits = network.logits(network.model, crops.contiguous(memory_format=network.layout))
        loss = nn.functional.cross_entropy(logits.float(), labels.to(device))
        network.optimiser.zero_grad()
        loss.backward()
        average_gradients(network.parameters)
        network.optimiser.step()
        step += 1
        bar.update()
        if step % per_epoch == 0:
            if any(gather_objects(not bool(torch.isfinite(loss)))):
                raise UserError(
                    f"the loss is not finite after epoch {step // per_epoch} of learning rate {rate}; take it out of "
                    f"lrs"
                )
            if not config.sync_norm:
                broadcast_weights(network.model)  # the statistics of the first process
            broken.add_of_all_ranks(list(broken.names))
            scores, shared.left_out = _validate(network, backbone, shared.val, len(train.classes), config, context)
            done[-1].append(scores)
            bar.set_postfix_str(f"lr {rate}: {done[-1][-1].top1[0]:.2f} %", refresh=False)
            history = [[[list(getattr(s, field)) for field in _FIELDS] for s in rate] for rate in done]
            left_out = list(shared.left_out)
            shared.unfinished.save(
                {"history": history, "broken": broken.names, "left_out": left_out, "network": network.state()}
            )


def _validate(
    network: Network, backbone: Backbone, val: ImageSet, classes: int, config: FinetuneConfig, context: RunContext,
) -> tuple[Accuracies, tuple[str, ...]]:  # fmt: skip
    found = extract_features(
        network.model, backbone.config, val, config.features, context.processes, context.workers, pool=network.logits
    )
    hits = TopKAccuracy(1, classes, context.device)
    logits, labels = (torch.from_numpy(array).to(context.device) for array in (found.values, found.labels))
    hits.add(logits.float()[:, :, None], labels)
    return hits.scores(), found.broken
