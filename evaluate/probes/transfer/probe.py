"""k-NN and linear accuracy on a list of data sets, each by its own metric."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from core.errors import UserError
from evaluate.common.metrics import Metric
from evaluate.probes.base import Job, Measured, Probe

if TYPE_CHECKING:
    import argparse

    from core.data.base import ImageSet
    from evaluate.common.resumable import ProbeState
    from evaluate.probes.features.head_inputs import HeadInputs
    from evaluate.probes.transfer.protocol import TransferConfig

_ROW = ("metric", "knn", "knn_k", "linear", "linear_lr")


class TransferProbe(Probe):
    kind = "transfer"
    door = "transfer_sets"
    metrics = (
        Metric("knn_top1", "k-NN top-1"),
        Metric("knn_mean_per_class", "k-NN mean per class"),
        Metric("linear_top1", "linear top-1"),
        Metric("linear_mean_per_class", "linear mean per class"),
    )
    performance_keys = frozenset({"features.batch", "sets"})
    data_key = "sets"
    many_sources = True
    data_option = "--sets"
    position = 40
    summary = "Measure k-NN and linear accuracy on several data sets, each by its own metric."
    example = "python evaluate/transfer_sets.py --ckpt runs/r50 --sets cifar10:/data,pets:/data,folder:/data/birds"
    protocols: ClassVar[Mapping[str, str]] = {
        "scenes": "transfer_small",
        "fashion-mnist": "transfer_small",
        "": "transfer_224px",
    }

    def config_class(self) -> type[TransferConfig]:
        from evaluate.probes.transfer.protocol import TransferConfig

        return TransferConfig

    def headline_metrics(self, document: Mapping[str, Any]) -> dict[str, float]:
        """k-NN and linear accuracy in the metric that is usual for the set, which is part of the key."""
        values = document["metrics"]
        return {f"{probe}_{values['metric']}": float(values[probe]) for probe in ("linear", "knn")}

    def takes_pixels(self, config: Any) -> bool:
        """Raw pixels are one vector per image: no blocks, no tokens."""
        return tuple(config.blocks) == (1,) and tuple(config.poolings) == ("auto",)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--sets", default="", metavar="A,B,…", help="sources, e.g. cifar10:/data,dtd:/data,scenes")
        parser.add_argument("--download", action="store_true", help="let torchvision download sets missing in its root")

    def check_arguments(self, arguments: argparse.Namespace) -> None:
        from core.config import Setting
        from core.data.open import split_sources

        if sources := list(dict.fromkeys(split_sources(arguments.sets))):
            arguments.overrides.append(Setting("sets", sources))

    def open_data(self, config: Any, arguments: argparse.Namespace) -> Mapping[str, ImageSet]:
        """Train and validation images of all sets, so that a mistake in the last one is reported at once."""
        from core.data.readers.torchvision_sets import SETS, download
        from core.files.user_path import user_path
        from evaluate.common.labelled import open_labelled

        if not config.sets:
            raise UserError("no sets to measure; name them, e.g. --sets cifar10:/data,pets:/data")
        found: dict[str, ImageSet] = {}
        for source in config.sets:
            kind, _, place = source.partition(":")
            if arguments.download and kind in SETS:  # nothing is left to do for the processes after the first
                download(kind, user_path(place))
            train, val = open_labelled(config.of(source), config.train_limit, config.val_limit, arguments.seed)
            found |= {f"{source} train": train, f"{source} val": val}
        return found

    def prepare(self, job: Job) -> HeadInputs:
        from evaluate.probes.features.head_inputs import open_head_inputs

        return open_head_inputs(job)

    def plan(self, job: Job) -> list[tuple[str, str]]:
        from evaluate.probes.transfer.protocol import metric_of

        config: TransferConfig = job.config
        inputs: HeadInputs = job.inputs
        sets = [(source, job.data[f"{source} train"], job.data[f"{source} val"]) for source in config.sets]
        return [
            (
                "features",
                f"{inputs.names[0]}: {inputs.width} numbers; {config.features.transform}",
            ),
            ("k-NN", f"k in {', '.join(map(str, config.ks))}; exp(cosine / {config.temperature:g})"),
            (
                "linear",
                f"{len(config.lrs)} learning rates at once, {config.epochs} epochs over cached features, batch "
                f"{config.batch}",
            ),
            *(
                (
                    "set",
                    f"{train.name}: {len(train):,} + {len(val):,} images, {len(train.classes):,} classes, "
                    f"{metric_of(source)}",
                )
                for source, train, val in sets
            ),
        ]

    def run(self, job: Job) -> None:
        """Set after set, each with a result of its own; those measured already are read."""
        from tqdm import tqdm

        from core.distributed import gather_objects

        if job.arguments.dry_run:
            return
        rows = []
        bar = tqdm(job.config.sets, desc="sets", unit="set", disable=not job.context.is_main)
        for source in bar:
            bar.set_postfix_str(source)
            rows.append({"set": source, **self._row(self._job_of(job, source))})
            gather_objects(None)
        if job.context.is_main:
            print(_table(rows))

    def _job_of(self, job: Job, source: str) -> Job:
        from core.data.open import USERS_COPY

        kind = source.partition(":")[0]
        train = job.data[f"{source} train"]
        named = f"{job.protocol} on {train.name if kind in USERS_COPY else kind}"
        return dataclasses.replace(
            job,
            protocol=named,
            data={"train": train, "val": job.data[f"{source} val"]},
            folder=job.folder / f"{kind}-{train.digest()[:8]}",
            started=time.time(),
        )

    def _row(self, job: Job) -> dict[str, Any]:
        """Metrics of one set, from its result.json if it is there; empty on all processes but the main one."""
        from core.distributed import gather_objects, raise_on_all_ranks
        from evaluate.probes.measurement import check_result, measure_and_write

        check_result(job)
        row, refused, path = None, "", job.folder / "result.json"
        if job.context.is_main and path.exists():  # of an earlier call, which was perhaps killed at a later set
            row = json.loads(path.read_text(encoding="utf-8")).get("metrics")
            if not isinstance(row, dict) or not row.keys() >= set(_ROW):
                row, refused = None, f"{path} lacks metrics of this measurement; remove it to measure again"
        raise_on_all_ranks(refused)
        row = gather_objects(row)[0]
        return row if row is not None else measure_and_write(self, job) or {}

    def measure(self, job: Job, state: ProbeState) -> Measured | None:
        from evaluate.probes.transfer.measure import measure_set
        from evaluate.probes.transfer.protocol import metric_of

        return measure_set(job, metric_of(job.folder.name.rpartition("-")[0]), state)


def _table(rows: list[dict[str, Any]]) -> str:
    width = max(len(row["set"]) for row in rows)
    lines = [f"{'set':{width}}   metric            k-NN            linear"]
    lines += [
        f"{row['set']:{width}}   {row['metric']:14}   {row['knn']:6.2f} (k {row['knn_k']:3})   {row['linear']:6.2f} "
        f"(lr {row['linear_lr']:g})"
        for row in rows
    ]
    lines += [f"mean {key}: {sum(row[key] for row in rows) / len(rows):.2f}" for key in ("knn", "linear")]
    return "\n".join(lines)


PROBE = TransferProbe()
