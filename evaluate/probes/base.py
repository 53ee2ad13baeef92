"""Probe: a kind of evaluation that trains or fits something on a backbone and has the common front door."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from evaluate.common.description import Description

if TYPE_CHECKING:
    import argparse

    from core.backbones import Backbone
    from core.data.base import ImageSet
    from evaluate.common.context import RunContext
    from evaluate.common.resumable import ProbeState


@dataclass(frozen=True)
class Job:
    """One measurement, opened and checked."""

    protocol: str
    """The protocol's full name, which the result carries."""
    config: Any
    """The resolved protocol."""
    backbone: Backbone
    """On the device of the process."""
    backbone_sha256: str
    """Digest of its weights."""
    data: Mapping[str, ImageSet]
    """Images by part, in the order of the result; the last part is the one tested on."""
    inputs: Any
    """Return value of `Probe.prepare`."""
    context: RunContext
    """Processes, loader workers and seed."""
    arguments: argparse.Namespace
    """The command line."""
    folder: Path
    """Folder of result.json."""
    started: float
    """time.time() when the command started, for the wall time."""
    adapted: tuple[str, ...] = ()
    """Settings that were fitted to a small set (`Probe.fit_to_data`), a sentence each."""

    @property
    def digests(self) -> list[str]:
        """Digests of the data, by part."""
        return [images.digest() for images in self.data.values()]


@dataclass(frozen=True)
class Measured:
    """Outcome of a measurement; only the main process needs one."""

    metrics: dict[str, Any]
    """The numbers, by the keys of `Description.metrics` and more."""
    broken: Mapping[str, Sequence[str]]
    """By part of the data: the images that could not be decoded."""
    table: str
    """The numbers as printed."""
    replaced: frozenset[str] = frozenset()
    """Parts whose broken images were replaced by others; those of the other parts were left out."""
    notes: Sequence[str] | None = None
    """Remarks for the result's settings; none: the key is left out."""
    finish: Callable[[], None] = field(default=lambda: None)
    """Called once the result is written: further files, pictures."""


class Probe(Description):
    """One kind of probe: a subclass says how to open, plan and measure it; `evaluate.probes.main` does the rest."""

    summary: ClassVar[str]
    """Sentence for `--help`."""
    example: ClassVar[str]
    """Command for `--help`."""
    protocols: ClassVar[Mapping[str, str]]
    """Protocol used if none is named, by the kind of the data (`scenes`, `fashion-mnist`). `""`, for all other data, is
    required."""
    run_data: ClassVar[bool] = True
    """True if, without data on the command line, a run folder is measured on the data of its pre-training."""
    sources: ClassVar[tuple[str, ...]] = ("scenes", "folder")
    """Kinds of data that it can measure, the built-in ones first; others are reported when they are opened."""

    frozen: ClassVar[bool] = True
    """False if the backbone is trained."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds arguments of its own."""
        from evaluate.common.cli import add_data

        add_data(parser, self.data_key)

    def check_arguments(self, arguments: argparse.Namespace) -> None:
        """Raises `UserError` for invalid arguments."""

    def open_data(self, config: Any, arguments: argparse.Namespace) -> Mapping[str, ImageSet]:
        """The images by part: `train` and `val`, unless the probe has other parts."""
        from evaluate.common.labelled import open_labelled

        train, val = open_labelled(config.data, config.train_limit, config.val_limit, arguments.seed)
        return {"train": train, "val": val}

    def fit_to_data(self, config: Any, data: Mapping[str, ImageSet], world: int) -> tuple[Any, tuple[str, ...]]:
        """`config` fitted to sets smaller than it assumes, and a sentence for each change; `world`: processes."""
        return config, ()

    def prepare(self, job: Job) -> Any:
        """Checks that model, data and settings go together before anything is computed; becomes `Job.inputs`.

        Raises `UserError`.
        """
        raise NotImplementedError

    def plan(self, job: Job) -> list[tuple[str, str]]:
        """Lines of the plan between `backbone` and `runs on`."""
        raise NotImplementedError

    def plan_details(self, job: Job) -> tuple[str, ...]:
        """Details of the line `runs on` in addition to device and processes."""
        return ()

    def measure(self, job: Job, state: ProbeState) -> Measured | None:
        """Measures on all processes together and returns None on all but the main one.

        `state` is where an interrupted measurement left off; saving is up to the probe.
        """
        raise NotImplementedError

    def run(self, job: Job) -> None:
        """Everything after the plan: refuses to overwrite another result, measures, writes result.json."""
        from evaluate.probes.measurement import check_result, measure_and_write

        check_result(job)
        if not job.arguments.dry_run:
            measure_and_write(self, job)
