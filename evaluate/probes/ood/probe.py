"""Heads of a frozen backbone carried to shifted images: ImageNet's variants, and corruptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from core.errors import UserError
from evaluate.common.metrics import Metric
from evaluate.probes.base import Job, Measured, Probe

if TYPE_CHECKING:
    import argparse

    from evaluate.common.resumable import ProbeState
    from evaluate.probes.features.head_inputs import HeadInputs
    from evaluate.probes.ood.heads import LinearHead
    from evaluate.probes.ood.protocol import OodConfig


class OodProbe(Probe):
    kind = "ood"
    metrics = (
        Metric("clean", "clean top-1"),
        Metric("corrupted", "corrupted top-1"),
        Metric("retained", "retained share"),
        Metric("imagenet_v2", "ImageNet-V2"),
        Metric("imagenet_a", "ImageNet-A"),
        Metric("imagenet_r", "ImageNet-R"),
        Metric("imagenet_sketch", "ImageNet-Sketch"),
        Metric("objectnet", "ObjectNet"),
        Metric("mce", "mCE", better="lower"),
    )
    class_metrics = (
        Metric("corrupted_each", "top-1 under each corruption"),
        Metric("imagenet_c_each", "top-1 under each corruption of ImageNet-C"),
    )
    performance_keys = frozenset({"features.batch", "shift_root"})
    position = 20
    pictures: ClassVar[Mapping[str, str]] = {"corruption curves": "Accuracy by severity of corruption"}
    summary = "Measure trained heads (k-NN, linear) of a frozen backbone on corrupted and shifted images."
    example = (
        "python evaluate/probe.py ood --ckpt runs/vit_s --data folder:/data/imagenet shift_root=/data/shifts "
        "--head results/linear"
    )
    protocols: ClassVar[Mapping[str, str]] = {
        "scenes": "ood_scenes_64px", "fashion-mnist": "ood_fashion_mnist_32px", "": "ood_imagenet_224px",
    }  # fmt: skip

    def config_class(self) -> type[OodConfig]:
        from evaluate.probes.ood.protocol import OodConfig

        return OodConfig

    def takes_pixels(self, config: Any) -> bool:
        return True

    def seed_matters(self, settings: Mapping[str, Any]) -> bool:
        """Nothing is trained, and corruptions are the same for every seed."""
        data = settings.get("data")
        return isinstance(data, Mapping) and data.get("limit") is not None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        from evaluate.common.cli import add_draw

        super().add_arguments(parser)
        parser.add_argument(
            "--head", type=Path, nargs="+", default=[], metavar="FILE",
            help="head.safetensors of a linear probe of this backbone, or its folder; the last is the headline",
        )  # fmt: skip
        add_draw(parser, "a chart of accuracy by severity (N is 1)")

    def check_arguments(self, arguments: argparse.Namespace) -> None:
        from evaluate.common.matplotlib_style import check_matplotlib

        if arguments.draw:
            check_matplotlib("--draw")

    def prepare(self, job: Job) -> tuple[HeadInputs, list[LinearHead]]:
        from core.features import feature_size
        from evaluate.probes.features.head_inputs import plan_head_inputs
        from evaluate.probes.ood.heads import input_of, read_head
        from evaluate.probes.ood.measure import cells

        config: OodConfig = job.config
        linear = [read_head(file, f"linear {number}") for number, file in enumerate(job.arguments.head, 1)]
        if not linear and not config.knn:
            raise UserError("there is no head: pass --head, or set knn=true")
        classes = len(job.data["val"].classes)
        for head, file in zip(linear, job.arguments.head, strict=True):
            if head.backbone_sha256 != job.backbone_sha256:
                raise UserError(f"the head {file} was trained on another backbone; pass one of --ckpt's own")
            if len(head.weight) != classes:
                raise UserError(f"the head {file} has {len(head.weight)} classes, and the clean data {classes}")
        wanted = [input_of(head.input) for head in linear]
        blocks = list(dict.fromkeys([1, *(number for number, _ in wanted)]))
        poolings: list[Any] = list(dict.fromkeys([config.features.pooling, *(pooling for _, pooling in wanted)]))
        poolings = [pooling for pooling in poolings if pooling != "auto"] or ["auto"]
        inputs = plan_head_inputs(job.backbone.model, config.features.transform.crop, blocks, poolings)
        for head, file in zip(linear, job.arguments.head, strict=True):
            if head.input not in inputs.names or head.weight.shape[1] != _width(inputs, head.input):
                raise UserError(
                    f"the head {file} takes {head.input!r}, which this backbone doesn't give under the protocol"
                )
        feature_size(job.backbone.model, config.features, job.context.device, inputs)
        next(cells(config, job.data["val"]))  # a missing set is reported now, not after the first is measured
        return inputs, linear

    def plan(self, job: Job) -> list[tuple[str, str]]:
        config: OodConfig = job.config
        train, val = job.data["train"], job.data["val"]
        heads = [*(["k-NN"] if config.knn else []), *(f"{head.name}: {head.input}" for head in job.inputs[1])]
        return [
            ("weights", job.backbone.origin.get("coverage", "none loaded")),
            ("heads", "; ".join(heads)),
            ("shifts", ", ".join(_described(config.sets))),
            ("bank", f"{train.name}: {len(train):,} images, {len(train.classes):,} classes"),
            ("clean", f"{val.name}: {len(val):,} images; {config.features.transform}"),
        ]

    def measure(self, job: Job, state: ProbeState) -> Measured | None:
        from evaluate.probes.ood.measure import measure

        return measure(job, state)


def _width(inputs: HeadInputs, name: str) -> int:
    start, end = inputs.slices[inputs.names.index(name)]
    return end - start


def _described(sets: Sequence[str]) -> list[str]:
    return [{"corruptions": "14 corruptions × 5 severities (own)"}.get(name, name) for name in sets]


PROBE = OodProbe()
