"""Runs of a suite: every evaluation of every checkpoint with every seed, and which of them are done.

The suite's own process imports this module, so torch is imported inside functions only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.errors import UserError
from core.files.user_path import user_path
from core.project import ROOT
from evaluate.suites.config import Evaluation
from evaluate.suites.measurement import measurement_of
from evaluate.tables.results import StoredResult, read_names, read_result, read_usable, row_of, run_of

Network = Literal["online", "target"]
_NAMED = re.compile(r"([\w][^=:/()\[\]]*)=(.+)")


@dataclass(frozen=True)
class Checkpoint:
    given: str
    """As `--ckpt` takes it; `{seed}` stands for the seed."""
    name: str
    """Name in the table; empty: the result's own."""


@dataclass(frozen=True)
class Run:
    evaluation: Evaluation
    """The evaluation, with the place of its data filled in."""
    protocol: str
    """The protocol's full name."""
    ckpt: str
    """As the entry point gets it."""
    name: str
    """Display name of the checkpoint."""
    named: bool
    """True if that name was given on the command line, so that the table shows it."""
    seed: int
    """Random seed."""
    network: Network
    """`online` or `target`."""
    digest: str
    """sha256 of the backbone's weights."""
    row: str
    """Row of the backbone in results (`results.row_of`)."""
    folder: Path
    """Folder of result.json and log.txt."""
    results: tuple[Path, ...] = ()
    """Existing results."""
    complete: bool = False
    """True if nothing is left to do."""

    @property
    def log(self) -> Path:
        """Output of the run."""
        return self.folder / "log.txt"

    @property
    def title(self) -> str:
        """Display name."""
        return f"{self.protocol} · {self.name} · seed {self.seed}"

    def script(self) -> Path:
        """The entry point."""
        return ROOT / "evaluate" / self.evaluation.description.command()[0]

    def arguments(self) -> list[str]:
        """Arguments of the entry point, without device and workers."""
        evaluation, description = self.evaluation, self.evaluation.description
        arguments = [
            *description.command()[1:],
            *("--ckpt", self.ckpt, "--protocol", evaluation.protocol, "--network", self.network),
            *("--seed", str(self.seed), "--out", str(self.folder)),
        ]
        if evaluation.data:
            arguments += [description.data_option, evaluation.data]
        return [*arguments, *evaluation.arguments, *evaluation.settings]

    def written(self) -> bool:
        """True if a result exists."""
        return any(self.folder.rglob("result.json"))

    def numbers(self) -> str:
        """Measured numbers as text. Raises `UserError` if a result is unreadable or holds a non-number."""
        found = []
        for path in sorted(self.folder.rglob("result.json")):
            result = read_result(path)
            for key, value in result.headline_metrics().items():
                metric = result.description.metric(key)
                found.append(f"{metric.head} {metric.text(value)}")
        return ", ".join(found)


@dataclass(frozen=True)
class Request:
    """What a suite asks for."""

    evaluations: tuple[Evaluation, ...]
    """With the places of their data filled in."""
    checkpoints: tuple[str, ...]
    """As `--ckpts` takes them."""
    seeds: int
    """Seeds 0 … seeds − 1 of each run."""
    network: Network
    results: Path
    """Folder of results."""
    processes: int = 1
    """Processes of each run."""


@dataclass(frozen=True)
class Plan:
    """Runs of a suite, and what is stored already."""

    runs: tuple[Run, ...]
    seconds: dict[str, float]
    """Duration of a stored run by protocol."""
    ignored: tuple[str, ...]
    """Sentences about results that can't be read."""


def make_plan(request: Request) -> Plan:
    """Opens every protocol and every checkpoint, and looks for results. Raises `UserError` for mistakes in them."""
    checkpoints = parse_checkpoints(request.checkpoints)
    read_names(request.results)  # reports a mistake in it now, not after the last run
    stored, unreadable = read_usable(request.results)
    runs = plan_runs(
        request.evaluations, checkpoints, range(request.seeds), request.network, stored, request.results,
        request.processes,
    )  # fmt: skip
    seconds = {each.document["protocol"]: float(each.document.get("wall_seconds", 0)) for each in stored}
    return Plan(tuple(runs), seconds, tuple(unreadable))


def parse_checkpoints(given: Sequence[str]) -> list[Checkpoint]:
    """Checkpoints of `[NAME=]CKPT`; CKPT `random` is the first one untrained. Raises `UserError` for equal names."""
    from core.backbones import fixed_backbone

    checkpoints: list[Checkpoint] = []
    for text in given:
        found = None if Path(text).exists() else _NAMED.fullmatch(text)
        name, ckpt = (found[1].strip(), found[2]) if found else ("", text)
        checkpoints.append(Checkpoint(ckpt, name))
    first = next(
        (each.given for each in checkpoints if each.given != "random" and fixed_backbone(each.given) is None), None
    )
    resolved = []
    for each in checkpoints:
        if each.given == "random":
            if first is None:
                raise UserError("--ckpts random is the first checkpoint untrained; name another checkpoint too")
            each = Checkpoint(first if first.startswith("random:") else f"random:{first}", each.name)
        resolved.append(each)
    names = [each.name or each.given for each in resolved]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--ckpts names {doubled!r} twice; leave one out, or give them different names (NAME=CKPT)")
    return resolved


def plan_runs(
    evaluations: Sequence[Evaluation], checkpoints: Sequence[Checkpoint], seeds: Sequence[int], network: Network,
    stored: Sequence[StoredResult], folder: Path, processes: int = 1,
) -> list[Run]:  # fmt: skip
    """Evaluation after evaluation, each over all checkpoints and seeds.

    A run is complete where `stored` holds a result of the same protocol and version (as so many `processes` run it),
    backbone weights, seed and place of the data, whatever lies there now. Two checkpoints of equal weights make one
    run, and so do seeds that decide nothing. Every protocol and every checkpoint is opened here, so that a mistake in
    the last one is reported at once.
    """
    from core.backbones import fixed_backbone
    from evaluate.common.protocol import result_folder

    backbones = _backbones(checkpoints, seeds, network)
    runs: dict[tuple[str, str, int, str], Run] = {}
    for evaluation in evaluations:
        measured = measurement_of(evaluation, processes)
        protocol = measured.protocol
        for checkpoint in checkpoints:
            if fixed_backbone(checkpoint.given) is not None and not measured.takes_pixels:
                continue
            first: dict[str, int] = {}
            for seed in seeds:
                ckpt = checkpoint.given.replace("{seed}", str(seed))
                digest, row = backbones[ckpt, seed]
                if first.setdefault(digest, seed) != seed and not measured.seed_matters:
                    continue
                where = result_folder(protocol, digest, seed, folder, measured.version)
                comparable = [result for result in stored if result.version == measured.version]
                found, complete = _found(evaluation, protocol, digest, seed, measured.place, comparable)
                run = Run(
                    evaluation, protocol, ckpt, checkpoint.name or ckpt, bool(checkpoint.name), seed, network, digest,
                    row, where, found, complete,
                )  # fmt: skip
                runs.setdefault((protocol, digest, seed, evaluation.data), run)
    return list(runs.values())


def _backbones(
    checkpoints: Sequence[Checkpoint], seeds: Sequence[int], network: Network
) -> dict[tuple[str, int], tuple[str, str]]:
    """By checkpoint and seed: digest of the weights, and what results will say of them."""
    from converters.open import open_backbone
    from core.backbones import describe
    from core.checkpoints import backbone_digest

    found: dict[tuple[str, int], tuple[str, str]] = {}
    for checkpoint in checkpoints:
        for seed in seeds:
            ckpt = checkpoint.given.replace("{seed}", str(seed))
            # Only weights that are drawn depend on the seed.
            same = None if ckpt.startswith(("random:", "timm:")) else next((s for c, s in found if c == ckpt), None)
            if same is not None:
                found[ckpt, seed] = found[ckpt, same]
                continue
            backbone = open_backbone(ckpt, network, None, seed)
            digest = backbone_digest(backbone)
            checkpoint_facts = {"given": backbone.source, "backbone_sha256": digest, **backbone.origin}
            row = row_of({"backbone": describe(backbone.config), "checkpoint": checkpoint_facts})
            found[ckpt, seed] = digest, row
    return found


def _found(
    evaluation: Evaluation, protocol: str, digest: str, seed: int, place: str, stored: Sequence[StoredResult]
) -> tuple[tuple[Path, ...], bool]:
    from core.data.open import split_sources

    same = [result for result in stored if run_of(result.document) == (digest, seed)]
    if evaluation.description.many_sources:
        found = {
            source: [result.path for result in same if _is_of_set(result.document["protocol"], protocol, source)]
            for source in split_sources(place)
        }
        return tuple(path for paths in found.values() for path in paths), all(found.values())
    key = evaluation.description.data_key.rpartition(".")[2]
    paths = tuple(
        result.path
        for result in same
        if result.document["protocol"] == protocol
        and _resolved(_stored_place(result.document, key) or place, key) == _resolved(place, key)
    )
    return paths, bool(paths)


def _stored_place(document: Mapping[str, Any], key: str) -> str:
    """Place of the data in the result; empty if it has none."""
    data = document.get("settings", {}).get("data")
    place = data.get(key) if isinstance(data, dict) else None
    return place if isinstance(place, str) else ""


def _is_of_set(named: str, protocol: str, source: str) -> bool:
    """True if a result's name, `PROTOCOL on cifar10` or `PROTOCOL on folder:/data/birds/train`, is of this set."""
    from core.data.open import USERS_COPY

    before, _, label = named.partition(f"{protocol} on ")
    kind, _, place = source.partition(":")
    if before:
        return False
    if kind not in USERS_COPY:
        return label == kind
    if kind == "folder":
        wanted = {_resolved(source), _resolved(f"folder:{Path(place) / 'train'}")}
    elif kind == "hf":
        return re.sub(r"\[[^\[\]]*\]( \(.*)?$", "", label) == source
    else:
        wanted = {_resolved(f"{kind}:{place.replace('{split}', 'train')}")}
    return bool({_resolved(label), _resolved(label.rpartition(" (")[0])} & wanted)  # a sample's size stands behind it


def _resolved(place: str, key: str = "source") -> str:
    """The same text for the same place, however it is written: `folder:/data/birds/` becomes `folder:/data/birds`."""
    kind, colon, path = ("", "", place) if key == "root" else place.partition(":")
    try:
        return f"{kind}{colon}{user_path(path).resolve()}" if path else place
    except (OSError, RuntimeError, ValueError):  # links in a circle, no such home, no path at all: as it is written
        return place
