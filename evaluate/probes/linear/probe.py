"""Linear heads on a frozen backbone: learning rates × last blocks × poolings in one pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from evaluate.common.metrics import Metric
from evaluate.common.plan import processes_text
from evaluate.probes.base import Job, Measured, Probe

if TYPE_CHECKING:
    from core.data.base import ImageSet
    from evaluate.common.resumable import ProbeState
    from evaluate.probes.features.head_inputs import HeadInputs
    from evaluate.probes.linear.protocol import LinearConfig

_STANDARDISED = {
    "none": "features are not standardised",
    "train": "features are standardised per dimension by mean and standard deviation over the training images "
    "({train}, evaluation transform)",
    "batch_norm": "features pass a batch norm without scale and shift, of the global batch",
}

_REPORTED = {
    "last_epoch": "the last epoch",
    "best_epoch": "each head's best epoch; head.safetensors holds its weights after the last one",
}


class LinearProbe(Probe):
    kind = "linear"
    door = "linear"
    metrics = (Metric("top1", "top-1"),)
    performance_keys = frozenset({"features.batch"})
    position = 10
    summary = "Train linear heads on a frozen backbone: learning rates × last blocks × poolings in one pass."
    example = "python evaluate/linear.py --ckpt runs/vit_s --protocol linear_dinov2_grid --data folder:/data/imagenet"
    protocols: ClassVar[Mapping[str, str]] = {
        "scenes": "linear_scenes_64px", "fashion-mnist": "linear_fashion_mnist_32px", "": "linear_mulan_r50",
    }  # fmt: skip

    def config_class(self) -> type[LinearConfig]:
        from evaluate.probes.linear.protocol import LinearConfig

        return LinearConfig

    def takes_pixels(self, config: Any) -> bool:
        """Raw pixels are one vector per image: no blocks, no tokens."""
        return tuple(config.blocks) == (1,) and tuple(config.poolings) == ("auto",)

    def fit_to_data(self, config: Any, data: Mapping[str, ImageSet], world: int) -> tuple[Any, tuple[str, ...]]:
        """With all training images in one batch where they are fewer than the batch."""
        from evaluate.probes.training_views import fit_batch

        return fit_batch(config, data["train"], world)

    def prepare(self, job: Job) -> HeadInputs:
        from core.data.order import check_batch
        from evaluate.probes.features.head_inputs import open_head_inputs

        inputs = open_head_inputs(job)
        train = job.data["train"]
        check_batch(job.config.batch, len(train), train.name, job.context.processes.world_size)
        return inputs

    def plan(self, job: Job) -> list[tuple[str, str]]:
        from evaluate.probes.linear.training import steps_of

        config: LinearConfig = job.config
        inputs: HeadInputs = job.inputs
        train, val = job.data["train"], job.data["val"]
        optim, used = config.optim, config.used_lrs()
        rates = ", ".join(f"{lr:g}" for lr in used[:3]) + (f" … {used[-1]:g}" if len(used) > 3 else "")
        scaled = f" (given for 256, × {config.batch}/256)" if config.lr_per_256 else ""
        augment = config.augment
        crops = f"new crops of area {augment.area[0]:g}–{augment.area[1]:g}, {augment.interpolation}, and flip"
        per_epoch, _ = steps_of(config, len(train), job.context.processes.world_size)
        return [
            ("inputs", f"{'; '.join(inputs.names)}; standardised: {config.standardise}"),
            (
                "heads",
                f"{len(inputs.slices) * len(used)} at once: learning rates {rates}{scaled}; {optim.name.upper()}, "
                f"momentum {optim.momentum:g}, weight decay {optim.weight_decay:g}",
            ),
            (
                "training",
                f"{train.name}: {len(train):,} images, {len(train.classes):,} classes; {config.epochs} epochs of "
                f"{per_epoch:,} steps, batch {config.batch}; "
                f"{crops if config.views == 'augmented' else 'cached features'}",
            ),
            ("val", f"{val.name}: {len(val):,} images; {config.features.transform}"),
        ]

    def plan_details(self, job: Job) -> tuple[str, ...]:
        return (job.config.features.precision,)

    def measure(self, job: Job, state: ProbeState) -> Measured | None:
        from core.data.broken import BrokenImages
        from core.data.order import fitting_batch
        from evaluate.probes.features.cache import cached_features
        from evaluate.probes.features.standardise import build_standardiser
        from evaluate.probes.linear.head_file import save_head
        from evaluate.probes.linear.head_grid import HeadGrid
        from evaluate.probes.linear.summary import heads_of, summary, table
        from evaluate.probes.linear.training import augmented_batches, cached_batches, steps_of, train_grid

        config: LinearConfig = job.config
        inputs: HeadInputs = job.inputs
        backbone, context = job.backbone, job.context
        train, val = job.data["train"], job.data["val"]
        val_features = cached_features(backbone, inputs, val, config.features, context)
        train_features = None
        if config.views == "cached" or config.standardise == "train":
            train_features = cached_features(backbone, inputs, train, config.features, context)
        grid = HeadGrid(
            inputs.slices, config.used_lrs(), len(train.classes), config.optim, context.seed, context.device
        )
        standardiser = build_standardiser(config.standardise, train_features, inputs.width, context.device)
        broken = BrokenImages(len(train), config.features.broken_share)
        cached = train_features if config.views == "cached" else None

        def open_batches(start: int) -> Iterator[Any]:
            if cached is not None:
                return cached_batches(cached, config, context, start)
            return augmented_batches(backbone, inputs, train, config, context, start, broken.add)

        images = len(train) if cached is None else len(cached.rows)
        batch = fitting_batch(config.batch, images, context.processes.world_size)  # broken images are left out
        config = dataclasses.replace(config, batch=batch)
        per_epoch, _ = steps_of(config, images, context.processes.world_size)
        history = train_grid(grid, standardiser, config, per_epoch, open_batches, val_features, context, state, broken)
        if not context.is_main:
            return None
        metrics = summary(history.epochs, heads_of(config, inputs), config.report)
        heads = len(config.lrs) * len(config.blocks) * len(config.poolings)
        return Measured(
            metrics,
            {"train": history.broken if cached is None else cached.broken, "val": val_features.broken},
            table(metrics),
            replaced=frozenset({"train"} if cached is None else ()),
            notes=[
                _STANDARDISED[config.standardise].format(train=train.name),
                f"the {heads} heads were trained together; top1 is the best of them on the validation images after "
                + _REPORTED[config.report],
                processes_text(context.processes.world_size),
            ],
            finish=lambda: save_head(job, metrics["head_number"], grid, standardiser),
        )


PROBE = LinearProbe()
