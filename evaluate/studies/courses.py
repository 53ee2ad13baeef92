"""Tables of a study's trainings: compute and stability of each arm, and the excess loss of its predictors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from evaluate.studies.record import Record, Trained
from evaluate.studies.statistics import paired_difference, spread

_EXCESS_HEAD = """
**Excess loss of the predictors**: loss of the trained predictor minus that of one fitted to the view type alone, on
projections of the frozen encoder (held-out images), at each measurement over the training; *left* is what a
predictor fitted to all view types together leaves at the end, however long it is trained.

| arm | view type | excess, start → end | difference at the end | detectable | left |
|---|---|---|---|---|---|
"""
_COURSE_HEAD = """
**Trainings**: images seen, pixels of all their views relative to the first arm, largest rise of the loss between two
lines of the log as a share of its whole fall, largest gradient norm over the median one, least spread of the
projections (0 collapsed, 1 even); means over seeds.

| arm | images | pixels | loss rise | gradient peak | least spread |
|---|---|---|---|---|---|
"""


def course_tables(record: Record) -> str:
    """Both tables as Markdown; empty for a record of before, which knows neither."""
    trained = {arm: [each for each in record.trained if each.arm == arm] for arm in record.baselines}
    trained = {arm: runs for arm, runs in trained.items() if runs}
    text = ""
    if rows := [row for arm in trained for row in _excess_rows(record, trained, arm)]:
        text += _EXCESS_HEAD + "\n".join(rows) + "\n"
    if trained and all(run.images for runs in trained.values() for run in runs):
        first = next(iter(trained.values()))[0].pixels
        text += _COURSE_HEAD + "\n".join(_course_row(arm, runs, first) for arm, runs in trained.items()) + "\n"
    return text


def excess(run: Trained, view: str, of: str = "trained") -> list[float]:
    """Loss `of` (`trained` or `together`) minus that of a predictor for the view type alone, at each measurement."""
    return [line[f"{view}/{of}"] - line[f"{view}/alone"] for line in run.predictor if f"{view}/alone" in line]


def _excess_rows(record: Record, trained: Mapping[str, Sequence[Trained]], arm: str) -> list[str]:
    runs = [run for run in trained[arm] if run.predictor]
    views = dict.fromkeys(key.partition("/")[0] for run in runs for key in run.predictor[-1] if "/" in key)
    rows = []
    for view in views:
        courses = [excess(run, view) for run in runs]
        steps = min(len(course) for course in courses)
        means = [sum(course[step] for course in courses) / len(courses) for step in range(steps)]
        _, deviation = spread([course[-1] for course in courses])
        over = " → ".join(f"{mean:.3f}" for mean in means)
        over += "" if len(courses) == 1 else f" ± {deviation:.3f} ({len(courses)})"
        left = spread([excess(run, view, "together")[-1] for run in runs])[0]
        rows.append(f"| {arm} | {view} | {over} | {_difference(record, trained, arm, view)} | {left:.3f} |")
    return rows


def _difference(record: Record, trained: Mapping[str, Sequence[Trained]], arm: str, view: str) -> str:
    """Cells of the difference to the baseline over common seeds, and of the smallest to be seen."""
    own, other = (
        {run.seed: values[-1] for run in trained.get(name, ()) if (values := excess(run, view))}
        for name in (arm, record.baselines[arm])
    )
    if not (common := sorted(own.keys() & other.keys())):
        return " | "
    found = paired_difference([own[seed] for seed in common], [other[seed] for seed in common])
    if found.seeds < 2:
        return f"{found.mean:+.3f} (one seed) | –"
    text = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    return f"{f'**{text}**' if found.clear else text} | {found.detectable:.3f}"


def _course_row(arm: str, runs: Sequence[Trained], first: int) -> str:
    keys = ("loss_rise", "gradient_peak", "spread_least")
    cells = [f"{runs[0].images:,}", f"{runs[0].pixels / first:.2f} ×"]
    for key in keys:
        values = [run.stability[key] for run in runs if key in run.stability]
        mean = sum(values) / len(values) if values else math.nan
        cells.append("–" if math.isnan(mean) else f"{mean:.0%}" if key == "loss_rise" else f"{mean:.2f}")
    return f"| {arm} | {' | '.join(cells)} |"
