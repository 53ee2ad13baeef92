"""What a suite has to run: every evaluation of every checkpoint with every seed, and which of it is done already."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.errors import UserError
from evaluate.report.results import StoredResult, run_of
from evaluate.suite_config import Evaluation

Network = Literal["online", "target"]
ROOT = Path(__file__).resolve().parent.parent
_NAMED = re.compile(r"([\w][^=:/()\[\]]*)=(.+)")
_TAKE_PIXELS = ("knn",)
"""Entry points that raw pixels are measured by."""


@dataclass(frozen=True)
class Checkpoint:
    given: str
    """As `--ckpt` takes it; `{seed}` stands for the seed."""
    name: str
    """What the table calls it; empty: what the result says."""


@dataclass(frozen=True)
class Run:
    evaluation: Evaluation
    """What is measured; the data's place filled in."""
    protocol: str
    """The protocol's full name."""
    ckpt: str
    """As the entry point gets it."""
    name: str
    """The checkpoint for people."""
    named: bool
    """Whether that name was given on the command line, so that the table shows it."""
    seed: int
    """Of everything random."""
    network: Network
    """`online` or `target`."""
    digest: str
    """sha256 of the backbone's weights."""
    folder: Path
    """Where result.json and log.txt go."""
    results: tuple[Path, ...] = ()
    """The results that are there already."""
    complete: bool = False
    """Whether nothing is left to do."""

    @property
    def log(self) -> Path:
        """What the run prints."""
        return self.folder / "log.txt"

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.protocol} · {self.name} · seed {self.seed}"

    def script(self) -> Path:
        """The entry point."""
        return ROOT / "evaluate" / f"{self.evaluation.run}.py"

    def arguments(self) -> list[str]:
        """What the entry point gets, without device and workers."""
        evaluation = self.evaluation
        arguments = [
            *("--ckpt", self.ckpt, "--protocol", evaluation.protocol, "--network", self.network),
            *("--seed", str(self.seed), "--out", str(self.folder)),
        ]
        if evaluation.data:
            arguments += ["--sets" if evaluation.run == "transfer_sets" else "--data", evaluation.data]
        return [*arguments, *evaluation.arguments, *evaluation.settings]


def parse_checkpoints(given: Sequence[str]) -> list[Checkpoint]:
    """`[NAME=]CKPT`, where CKPT `random` is the first one untrained. `UserError` for what can't be told apart."""
    checkpoints: list[Checkpoint] = []
    for text in given:
        found = None if Path(text).exists() else _NAMED.fullmatch(text)
        name, ckpt = (found[1].strip(), found[2]) if found else ("", text)
        checkpoints.append(Checkpoint(ckpt, name))
    first = next((each.given for each in checkpoints if each.given not in ("random", "pixels")), None)
    resolved = []
    for each in checkpoints:
        if each.given == "random":
            if first is None:
                raise UserError("--ckpts random is the first checkpoint untrained, and there is none; name one too")
            each = Checkpoint(first if first.startswith("random:") else f"random:{first}", each.name)
        resolved.append(each)
    names = [each.name or each.given for each in resolved]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--ckpts names {doubled!r} twice; leave one out, or give them different names (NAME=CKPT)")
    return resolved


def plan_runs(
    evaluations: Sequence[Evaluation], checkpoints: Sequence[Checkpoint], seeds: Sequence[int], network: Network,
    stored: Sequence[StoredResult], folder: Path,
) -> list[Run]:  # fmt: skip
    """Evaluation after evaluation, each over all checkpoints and seeds.

    A run is complete where `stored` holds a result of the same protocol, backbone weights, seed and data source. Two
    checkpoints of equal weights make one run. Every protocol and every checkpoint is opened here, so that a mistake in
    the last one is told at once.
    """
    from evaluate.protocol import result_folder

    digests = _digests(checkpoints, seeds, network)
    runs: dict[tuple[str, str, int, str], Run] = {}
    for evaluation in evaluations:
        protocol, place = _protocol(evaluation)
        for checkpoint in checkpoints:
            if checkpoint.given == "pixels" and evaluation.run not in _TAKE_PIXELS:
                continue
            for seed in seeds:
                ckpt = checkpoint.given.replace("{seed}", str(seed))
                digest = digests[ckpt, seed]
                where = folder / result_folder(protocol, digest, seed).relative_to("results")
                found, complete = _found(evaluation, protocol, digest, seed, place, stored)
                run = Run(
                    evaluation, protocol, ckpt, checkpoint.name or ckpt, bool(checkpoint.name), seed, network, digest,
                    where, found, complete,
                )  # fmt: skip
                runs.setdefault((protocol, digest, seed, evaluation.data), run)
    return list(runs.values())


def _digests(checkpoints: Sequence[Checkpoint], seeds: Sequence[int], network: Network) -> dict[tuple[str, int], str]:
    from converters.open import open_backbone
    from core.checkpoints import tensors_digest

    digests: dict[tuple[str, int], str] = {}
    for checkpoint in checkpoints:
        for seed in seeds:
            ckpt = checkpoint.given.replace("{seed}", str(seed))
            # Only weights that are drawn depend on the seed.
            same = None if ckpt.startswith(("random:", "timm:")) else next((d for c, d in digests if c == ckpt), None)
            if same is not None:
                digests[ckpt, seed] = digests[ckpt, same]
                continue
            backbone = open_backbone(ckpt, network, None, seed)
            digests[ckpt, seed] = tensors_digest(backbone.model.state_dict())
    return digests


def _protocol(evaluation: Evaluation) -> tuple[str, str]:
    """The protocol's full name and where its data is; `UserError` for settings that it doesn't have."""
    from core.config import load_config
    from evaluate.detection import settings as detection
    from evaluate.finetune_protocol import NEUTRAL_KEYS as OF_FINETUNE
    from evaluate.finetune_protocol import FinetuneConfig
    from evaluate.knn_protocol import NEUTRAL_KEYS as OF_KNN
    from evaluate.knn_protocol import KnnConfig
    from evaluate.linear_protocol import NEUTRAL_KEYS as OF_LINEAR
    from evaluate.linear_protocol import LinearConfig
    from evaluate.logreg_protocol import NEUTRAL_KEYS as OF_LOGREG
    from evaluate.logreg_protocol import LogregConfig
    from evaluate.protocol import full_name, protocol_file
    from evaluate.segmentation import protocol as segmentation
    from evaluate.transfer_protocol import NEUTRAL_KEYS as OF_TRANSFER
    from evaluate.transfer_protocol import TransferConfig

    kinds: dict[str, tuple[type, Collection[str], tuple[str, ...]]] = {
        "knn": (KnnConfig, OF_KNN, ("knn",)),
        "linear": (LinearConfig, OF_LINEAR, ("linear",)),
        "logreg": (LogregConfig, OF_LOGREG, ("logreg",)),
        "finetune": (FinetuneConfig, OF_FINETUNE, ("finetune",)),
        "transfer_sets": (TransferConfig, OF_TRANSFER | {"sets"}, ("transfer",)),
        "coco": (detection.DetectionConfig, detection.NEUTRAL_KEYS, ()),
        "segment": (segmentation.SegmentConfig, segmentation.NEUTRAL_KEYS, segmentation.KINDS),
    }
    kind, neutral, families = kinds[evaluation.run]
    name = evaluation.protocol
    file = detection.find_protocol(name) if evaluation.run == "coco" else protocol_file(name, *families)
    key = {"segment": "data.root", "transfer_sets": "sets"}.get(evaluation.run, "data.source")
    value = json.dumps(evaluation.data.split(",")) if key == "sets" else evaluation.data
    overrides = [*evaluation.settings, *([f"{key}={value}"] if evaluation.data else [])]
    config: Any = load_config(kind, file, overrides)
    place = ",".join(config.sets) if key == "sets" else config.data.root if key == "data.root" else config.data.source
    return full_name(config, file, neutral), place


def _found(
    evaluation: Evaluation, protocol: str, digest: str, seed: int, place: str, stored: Sequence[StoredResult]
) -> tuple[tuple[Path, ...], bool]:
    same = [result for result in stored if run_of(result.document) == (digest, seed)]
    if evaluation.run == "transfer_sets":  # one result for each set, named after it
        wanted = {source: _named_after(protocol, source) for source in place.split(",")}
        found = {source: [r for r in same if r.document["protocol"].startswith(wanted[source])] for source in wanted}
        return tuple(result.path for results in found.values() for result in results), all(found.values())
    key = "root" if evaluation.run == "segment" else "source"
    paths = tuple(
        result.path
        for result in same
        if result.document["protocol"] == protocol and _data(result.document).get(key, place) == place
    )
    return paths, bool(paths)


def _named_after(protocol: str, source: str) -> str:
    kind = source.partition(":")[0]
    return f"{protocol} on {source if kind in ('folder', 'webdataset') else kind}"


def _data(document: Mapping[str, Any]) -> Mapping[str, Any]:
    return document["settings"].get("data", {})


def python_command(run: Run, device: str, workers: int) -> list[str]:
    """The command that runs it in one process of this Python."""
    return [
        *(sys.executable, str(run.script()), *run.arguments()),
        *("--device", device, "--workers", str(workers)),
    ]
