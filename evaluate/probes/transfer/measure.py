"""k-NN and linear accuracy of one set."""

from __future__ import annotations

from core.data.broken import BrokenImages
from core.errors import UserError
from evaluate.common.plan import count, processes_text
from evaluate.common.resumable import ProbeState
from evaluate.probes.base import Job, Measured
from evaluate.probes.features.cache import cached_features
from evaluate.probes.features.head_inputs import HeadInputs
from evaluate.probes.features.standardise import build_standardiser
from evaluate.probes.knn.search import open_engine
from evaluate.probes.linear.head_grid import HeadGrid
from evaluate.probes.linear.summary import summary
from evaluate.probes.linear.training import cached_batches, steps_of, train_grid
from evaluate.probes.transfer.protocol import TransferConfig, knn_scores


def measure_set(job: Job, metric: str, state: ProbeState) -> Measured | None:
    """Measures on all processes together; None on all but the main one. Raises `UserError` for too few images.

    `metric`: `top1` or `mean_per_class`, by which head and k are chosen.
    """
    config: TransferConfig = job.config
    inputs: HeadInputs = job.inputs
    context, train = job.context, job.data["train"]
    bank, queries = (
        cached_features(job.backbone, inputs, images, config.features, context) for images in job.data.values()
    )
    world = context.processes.world_size
    if len(bank.rows) < world:
        raise UserError(
            f"{train.name} has {count(len(bank.rows), 'usable image')}, too few for {processes_text(world)}; start "
            f"fewer processes or leave the set out"
        )
    linear = config.linear(len(bank.rows) // world * world)
    neighbours = []
    if context.is_main:
        neighbours = knn_scores(bank, queries, len(train.classes), config, open_engine(context.processes))
    grid = HeadGrid(inputs.slices, linear.used_lrs(), len(train.classes), linear.optim, context.seed, context.device)
    standardiser = build_standardiser(linear.standardise, bank, inputs.width, context.device)
    history = train_grid(
        grid,
        standardiser,
        linear,
        steps_of(linear, len(bank.rows), context.processes.world_size)[0],
        lambda start: cached_batches(bank, linear, context, start),
        queries,
        context,
        state,
        BrokenImages(len(train), config.features.broken_share),
    )
    if not context.is_main:
        return None
    by_head = summary(history.epochs, [{"input": inputs.names[0], "lr": lr, "lr_used": lr} for lr in config.lrs])[
        "heads"
    ]
    best_head = max(by_head, key=lambda head: head[metric])
    best_k = max(neighbours, key=lambda found: found[metric])
    statistics = f", features standardised: {linear.standardise} (statistics of the training images)"
    return Measured(
        {
            "metric": metric,
            "top1": best_head["top1"],
            "top5": best_head["top5"],
            "mean_per_class": best_head["mean_per_class"],
            "linear": best_head[metric],
            "linear_lr": best_head["lr"],
            "knn": best_k[metric],
            "knn_k": best_k["k"],
            "heads": by_head,
            "neighbours": neighbours,
        },
        {"train": bank.broken, "val": queries.broken},
        "",
        notes=[
            f"linear and knn are {metric}; learning rate and k are those which are best on the validation images",
            f"linear heads: batch {linear.batch}{statistics if linear.standardise == 'train' else ''}",
        ],
    )
