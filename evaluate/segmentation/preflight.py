"""Checks before training: the data, an existing result, the point from which to resume."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from typing import Any

from core.distributed import gather_objects, raise_on_all_ranks
from core.errors import UserError
from evaluate.common.protocol import conflicting_result
from evaluate.segmentation.data.checks import (
    Checked,
    check_apart,
    check_split,
    label_facts,
    largest_test_batch,
    may_count_from_zero,
)
from evaluate.segmentation.data.class_names import check_class_list
from evaluate.segmentation.data.labels import Baseline, majority_baseline
from evaluate.segmentation.data.layouts import split_facts
from evaluate.segmentation.engine.run_state import Start, finished_result, prepare_folder
from evaluate.segmentation.plan import baseline_line, data_lines, plan, test_batch_line
from evaluate.segmentation.setup import Setup


@dataclass(frozen=True)
class Preflight:
    """Outcome of the checks, equal on all processes."""

    facts: dict[str, Any]
    """`data` of result.json: facts about `train` and `val`."""
    skipped: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Positions of the broken samples of each split that was checked."""
    baseline: Baseline | None = None
    """Score of the majority class; None for a finished run."""
    finished: dict[str, Any] | None = None
    """Result of a finished run."""
    test_batch: int = 1
    """Test images per forward pass and process."""
    start: Start | None = None
    """Starting point of training; None for a finished run and a dry run."""


def check_on_main(setup: Setup, arguments: argparse.Namespace) -> Preflight:
    """Checks on the main process and returns the outcome on all. Raises its `UserError` on all processes."""
    outcome, refused = None, ""
    if setup.context.is_main:
        try:
            outcome = _check(setup, arguments)
        except UserError as error:
            refused = str(error)
    raise_on_all_ranks(refused)
    shared: Preflight = gather_objects(outcome)[0]
    return shared


def _check(setup: Setup, arguments: argparse.Namespace) -> Preflight:
    config, root, samples = setup.config.data, setup.root, setup.samples
    check_class_list(root, config)
    check_apart(samples)
    facts = {split: split_facts(root, config.layout, split, samples[split]) for split in ("train", "val")}
    print(plan(setup, facts), flush=True)
    digests = [part["digest"] for part in facts.values()]
    result, version = setup.out / "result.json", setup.config.protocol_version
    if refused := conflicting_result(result, setup.protocol, setup.digest, arguments.seed, digests, version):
        raise UserError(refused)
    if finished := None if arguments.restart else finished_result(setup.out, setup.measured):
        skipped = {"val": _check_split(setup, "val").skipped} if arguments.draw or arguments.corrupt else {}
        return Preflight(facts, skipped, finished=finished)
    checked = {split: _check_split(setup, split) for split in ("train", "val")}
    for split, found in checked.items():
        facts[split] |= {"broken": list(found.broken), "labels": label_facts(found, config, setup.names)}
        facts[split]["account"] = (samples[split].account + found.account).to_json()
    baseline = majority_baseline(checked["train"].counts, checked["val"].counts)
    test_batch = largest_test_batch(checked["val"].sizes, setup.config.inference)
    accounts = {split: samples[split].account + found.account for split, found in checked.items()}
    print(data_lines(facts, accounts, may_count_from_zero(checked, config)), flush=True)
    if test_batch < setup.config.inference.batch:
        print(test_batch_line(setup.config.inference.batch), flush=True)
    print(baseline_line(baseline, setup.names), flush=True)
    start = None
    if not arguments.dry_run:
        identity = {
            "protocol": setup.protocol, "backbone": setup.digest, "seed": arguments.seed, "data": digests,
            "settings": setup.measured,
        }  # fmt: skip
        start = prepare_folder(setup.out, identity, arguments.restart, checked["train"].broken)
    skipped = {split: found.skipped for split, found in checked.items()}
    return Preflight(facts, skipped, baseline, test_batch=test_batch, start=start)


def _check_split(setup: Setup, split: str) -> Checked:
    what, whole = ("training", False) if split == "train" else ("test", True)
    return check_split(setup.samples[split].pairs, setup.config.data, what, whole, progress=sys.stderr.isatty())
