"""Logistic regression on a frozen backbone's features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from core.errors import UserError
from evaluate.common.metrics import Metric
from evaluate.probes.base import Job, Measured, Probe

if TYPE_CHECKING:
    from evaluate.common.resumable import ProbeState
    from evaluate.probes.features.head_inputs import HeadInputs
    from evaluate.probes.logreg.protocol import LogregConfig


class LogregProbe(Probe):
    kind = "logreg"
    door = "logreg"
    metrics = (Metric("top1", "top-1"),)
    performance_keys = frozenset({"features.batch", "solver"})
    position = 20
    summary = "Fit logistic regressions of many strengths to a frozen backbone's features, kept on disk."
    example = "python evaluate/logreg.py --ckpt runs/vit_s --data folder:/data/imagenet solver=torch"
    protocols: ClassVar[Mapping[str, str]] = {
        "scenes": "logreg_scenes_64px", "fashion-mnist": "logreg_fashion_mnist_32px", "": "logreg_dinov2",
    }  # fmt: skip

    def config_class(self) -> type[LogregConfig]:
        from evaluate.probes.logreg.protocol import LogregConfig

        return LogregConfig

    def prepare(self, job: Job) -> HeadInputs:
        from evaluate.probes.features.head_inputs import open_head_inputs

        return open_head_inputs(job)

    def plan(self, job: Job) -> list[tuple[str, str]]:
        from evaluate.probes.logreg.protocol import solver_of

        config, inputs, cs = job.config, job.inputs, job.config.cs()
        train, val, share = job.data["train"], job.data["val"], config.choice_share
        standardised = ", standardised by the training images" if config.standardise == "train" else ""
        return [
            ("input", f"{inputs.names[0]}: {inputs.width} numbers{standardised}"),
            (
                "fits",
                f"{len(cs)} values of C, {cs[0]:g} … {cs[-1]:g}, by {solver_of(config, job.context.device)}; at most "
                f"{config.max_iter} steps each; C chosen on "
                + ("val" if share is None else f"{share:g} of the training images, then refit"),
            ),
            ("train", f"{train.name}: {len(train):,} images, {len(train.classes):,} classes"),
            ("val", f"{val.name}: {len(val):,} images"),
        ]

    def measure(self, job: Job, state: ProbeState) -> Measured | None:
        import numpy as np

        from evaluate.probes.features.cache import cached_features
        from evaluate.probes.logreg.protocol import best_of, fit_all, fit_one, split_for_choice

        config: LogregConfig = job.config
        train = job.data["train"]
        train_features, val_features = (
            cached_features(job.backbone, job.inputs, images, config.features, job.context)
            for images in job.data.values()
        )
        fitted, tested = train_features, val_features
        if config.choice_share is not None:
            fitted, tested = split_for_choice(train_features, config.choice_share)
        absent = sorted(set(range(len(train.classes))) - set(np.unique(fitted.labels).tolist()))
        if absent:
            raise UserError(
                f"{train.name} has no image of class {train.classes[absent[0]]}; raise train_limit or take the class "
                f"out"
            )
        rows = fit_all(fitted, tested, len(train.classes), config, job.context, state)
        if not job.context.is_main:
            return None
        best, chosen_on = best_of(rows), "the validation images"
        if config.choice_share is not None:
            chosen_on = f"{len(tested.rows):,} training images"
            classes, device = len(train.classes), job.context.device
            best = fit_one(train_features, val_features, classes, config, best["C"], device)
        return Measured(
            {**{key: best[key] for key in ("top1", "top5", "mean_per_class", "C")}, "fits": rows},
            {"train": train_features.broken, "val": val_features.broken},
            f"best C {best['C']:.3g}: top-1 {best['top1']:.2f}, top-5 {best['top5']:.2f}, mean per class "
            f"{best['mean_per_class']:.2f}",
            notes=[
                f"top1 is that of the C which is best on {chosen_on}",
                f"{sum(not row['converged'] for row in rows)} of {len(rows)} fits ended at max_iter",
            ],
        )


PROBE = LogregProbe()
