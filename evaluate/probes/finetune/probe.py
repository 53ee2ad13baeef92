"""Fine-tuning of the whole network, on all labels or a few."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from evaluate.common.metrics import Metric
from evaluate.common.plan import processes_text
from evaluate.probes.base import Job, Measured, Probe

if TYPE_CHECKING:
    import argparse

    from core.data.base import ImageSet
    from evaluate.common.resumable import ProbeState
    from evaluate.probes.finetune.protocol import FinetuneConfig


class FinetuneProbe(Probe):
    kind = "finetune"
    door = "finetune"
    frozen = False
    metrics = (Metric("top1", "top-1"),)
    performance_keys = frozenset({"features.batch"})
    memory_advice = "lower batch, or set features.precision=bf16"
    position = 30
    summary = "Fine-tune a backbone on all training images, or on 1 % or 10 % of them (semi-supervised)."
    example = (
        "python evaluate/finetune.py --ckpt runs/r50 --protocol finetune_mulan_r50_1pct --data folder:/data/imagenet "
        "share=null file_list=1percent.txt"
    )
    protocols: ClassVar[Mapping[str, str]] = {
        "scenes": "finetune_scenes_64px_10pct", "fashion-mnist": "finetune_scenes_64px_10pct",
        "": "finetune_mulan_r50",
    }  # fmt: skip

    def config_class(self) -> type[FinetuneConfig]:
        from evaluate.probes.finetune.protocol import FinetuneConfig

        return FinetuneConfig

    def open_data(self, config: Any, arguments: argparse.Namespace) -> Mapping[str, ImageSet]:
        from evaluate.common.labelled import open_labelled
        from evaluate.probes.finetune.labelled_subset import labelled_part

        whole, val = open_labelled(config.data, config.train_limit, config.val_limit, arguments.seed)
        return {"train": labelled_part(whole, config.share, config.file_list, arguments.seed), "val": val}

    def fit_to_data(self, config: Any, data: Mapping[str, ImageSet], world: int) -> tuple[Any, tuple[str, ...]]:
        """With all training images in one batch where they are fewer than the batch."""
        from evaluate.probes.training_views import fit_batch

        return fit_batch(config, data["train"], world)

    def prepare(self, job: Job) -> None:
        from core.backbones import check_weights
        from core.data.order import check_batch
        from core.features import feature_size

        check_weights(job.backbone, "fine-tune")
        feature_size(job.backbone.model, job.config.features, job.context.device)
        train = job.data["train"]
        check_batch(job.config.batch, len(train), train.name, job.context.processes.world_size)

    def plan(self, job: Job) -> list[tuple[str, str]]:
        from core.data.order import batches_per_epoch
        from evaluate.probes.finetune.training import rate_text

        config: FinetuneConfig = job.config
        train, val, optim = job.data["train"], job.data["val"], config.optim
        world = job.context.processes.world_size
        steps = batches_per_epoch(len(train), config.batch, config.last_batch, world)
        norms = "" if config.sync_norm or world == 1 else "; batch norms of each process"
        decay = f", layer decay {optim.layer_decay:g}" if optim.layer_decay < 1 else ""
        return [
            (
                "training",
                f"{train.name}: {len(train):,} images, {len(train.classes):,} classes; {config.epochs} epochs of "
                f"{steps:,} steps, batch {config.batch}; crops {config.augment.interpolation}{norms}",
            ),
            (
                "rates",
                f"{', '.join(map(rate_text, config.rates()))}, one after the other; {optim.name}, weight decay "
                f"{optim.weight_decay:g}{decay}",
            ),
            ("val", f"{val.name}: {len(val):,} images; {config.features.transform}"),
        ]

    def plan_details(self, job: Job) -> tuple[str, ...]:
        return (job.config.features.precision,)

    def measure(self, job: Job, state: ProbeState) -> Measured | None:
        from evaluate.probes.finetune.training import finetune
        from evaluate.probes.linear.summary import summary, table

        train, val = job.data["train"], job.data["val"]
        epochs, replaced, left_out = finetune(job.backbone, train, val, job.config, job.context, state)
        if not job.context.is_main:
            return None
        config: FinetuneConfig = job.config
        heads = [
            {"input": f"fine-tuned, head lr {head_lr:g}" if config.head_lrs else "fine-tuned", "lr": lr, "lr_used": lr}
            for lr, head_lr in config.rates()
        ]
        metrics = summary(epochs, heads, config.report)
        return Measured(
            metrics,
            {"train": replaced, "val": left_out},
            table(metrics),
            replaced=frozenset({"train"}),
            notes=[
                f"trained on {train.name}",
                "top1 is that of the learning rate which is best on the validation images after "
                + ("its best epoch" if config.report == "best_epoch" else "the last epoch"),
                processes_text(job.context.processes.world_size),
            ],
        )


PROBE = FinetuneProbe()
