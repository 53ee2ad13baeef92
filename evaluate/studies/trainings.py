"""Trainings of a study: each arm with each seed as a run of pretrain/run.py in a folder of its own."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import load_config, read_yaml
from core.errors import UserError
from core.files.atomic_file import write_atomically
from core.project import ROOT
from evaluate.studies.config import Arm, StudyConfig

_NOTE = "study.json"
_PREDICTOR = "predictor/"


@dataclass(frozen=True)
class Training:
    arm: Arm
    """Arm of the study."""
    seed: int
    """Seed of the training."""
    recipe: Path
    """File of the recipe."""
    recipe_digest: str
    """Digest of what it sets."""
    settings: tuple[str, ...]
    """All settings that the recipe gets."""
    folder: Path
    """Run folder."""

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.folder / "log.txt"

    @property
    def title(self) -> str:
        """Display name."""
        return f"{self.protocol} · seed {self.seed}"

    @property
    def protocol(self) -> str:
        """Trainings of one arm take about as long as each other."""
        return f"pre-training · {self.arm.name}"

    def script(self) -> Path:
        """The entry point."""
        return ROOT / "pretrain/run.py"

    def arguments(self) -> list[str]:
        """Arguments of the entry point, without device and workers."""
        return ["--config", str(self.recipe), "--out", str(self.folder), f"seed={self.seed}", *self.settings]

    def written(self) -> bool:
        """True if the training is finished."""
        from core.checkpoints import load_exported

        exported, config = self.folder / "backbone.safetensors", self.folder / "config.yaml"
        if not exported.is_file() or not config.is_file():
            return False
        return float(load_exported(exported).origin["epoch"]) >= float(read_yaml(config)["epochs"])

    def numbers(self) -> str:
        """The last loss."""
        return f"loss {last_metrics(self.folder).get('loss', float('nan')):.3f}"

    def claim(self) -> None:
        """Notes recipe, seed and settings in its folder. Raises `UserError` where others are noted there."""
        file = self.folder / _NOTE
        wanted = {"recipe_sha256": self.recipe_digest, "seed": self.seed, "settings": list(self.settings)}
        if file.is_file():
            if json.loads(file.read_text(encoding="utf-8")) != wanted:
                raise UserError(
                    f"{self.folder} was trained with another recipe or other settings; choose another folder with --out"
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda partial: partial.write_text(json.dumps(wanted), encoding="utf-8"))


def trainings_of(study: StudyConfig, out: Path, seeds: int) -> list[Training]:
    """Seed after seed, each over all arms that have it, so that a study cut short is balanced; at most `seeds`."""
    recipe, digest = study.recipe_file, study.recipe_digest()
    return [
        Training(arm, seed, recipe, digest, (*study.settings, *arm.settings), out / "runs" / f"{arm.slug}-seed{seed}")
        for seed in range(seeds)
        for arm in study.arms
        if seed < arm.seeds
    ]


def check_settings(trainings: Sequence[Training]) -> None:
    """Reads the recipe of each arm with the arm's settings. Raises `UserError` with the arm for a mistake."""
    # By name, because pretrain stands above evaluate in the order of imports.
    config = importlib.import_module("pretrain.config").PretrainConfig
    for arm, (recipe, settings) in {each.arm.name: (each.recipe, each.settings) for each in trainings}.items():
        try:
            load_config(config, recipe, settings)
        except UserError as error:
            raise UserError(f"arm {arm!r}: {error}") from None


def last_metrics(run: Path) -> dict[str, float]:
    """The last line with a loss of a run's metrics.jsonl; empty if it has none."""
    lines = [line for line in _lines(run) if "loss" in line]
    return {key: value for key, value in lines[-1].items() if isinstance(value, int | float)} if lines else {}


def mean_speed(run: Path) -> float:
    """Images per second over all steps that metrics.jsonl has; NaN without one."""
    seconds = seconds_of(run)
    return seen_by(run)[0] / seconds if seconds else math.nan


def seen_by(run: Path) -> tuple[int, int]:
    """Images that a finished run has seen, and pixels of their views (images × Σ views × side²)."""
    config, lines = read_yaml(run / "config.yaml"), _lines(run)
    images = int(max((line["step"] for line in lines), default=0) * config["batch"])
    return images, images * sum(view["count"] * view["size"] ** 2 for view in config["views"].values())


def stability_of(run: Path) -> dict[str, float]:
    """Course of a training in a few numbers, over the lines of its log after the first tenth of its steps.

    `loss_rise`: largest rise of the loss from one line to the next, as a share of its whole fall; `loss_spike`: largest
    loss of a step above its line's mean, as a share of the same; `gradient_peak`: largest gradient norm, of all steps
    where it was logged, else of the lines' last steps, over the lines' median; `spread_least`: least spread of the
    projections. Those that were logged.
    """
    lines = [line for line in _lines(run) if "loss" in line]
    last = max((line["step"] for line in lines), default=0)
    lines = [line for line in lines if line["step"] > last / 10]
    found = {}
    losses = [line["loss"] for line in lines]
    if len(losses) > 1 and (fall := max(losses) - min(losses)):
        found["loss_rise"] = max(0.0, *(later - before for before, later in itertools.pairwise(losses))) / fall
        if all("loss_max" in line for line in lines):
            found["loss_spike"] = max(line["loss_max"] - line["loss"] for line in lines) / fall
    if norms := [line["gradient_norm"] for line in lines if "gradient_norm" in line]:
        peak = max(line.get("gradient_norm_max", line["gradient_norm"]) for line in lines if "gradient_norm" in line)
        found["gradient_peak"] = peak / statistics.median(norms)
    if spreads := [line["spread"] for line in lines if "spread" in line]:
        found["spread_least"] = min(spreads)
    return found


def predictor_losses(run: Path) -> tuple[dict[str, float], ...]:
    """Losses with the run's own and with fitted predictors, `epoch` and `VIEW/…`; a line for each measurement."""
    return tuple(
        {"epoch": line["epoch"]}
        | {key.removeprefix(_PREDICTOR): value for key, value in line.items() if key.startswith(_PREDICTOR)}
        for line in _lines(run)
        if any(key.startswith(_PREDICTOR) for key in line)
    )


def seconds_of(run: Path) -> float:
    """Time of a run's steps in seconds, from the speeds in metrics.jsonl; 0 without one."""
    seconds, before = 0.0, 0
    lines = [line for line in _lines(run) if line.get("images_per_second", 0) > 0]
    batch = read_yaml(run / "config.yaml")["batch"] if lines else 0
    for line in lines:
        seconds += (line["step"] - before) * batch / line["images_per_second"]
        before = line["step"]
    return seconds


def _lines(run: Path) -> list[dict[str, Any]]:
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
