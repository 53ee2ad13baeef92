"""Tables of a study's trainings: compute and stability of each arm, and the excess loss of its predictors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from evaluate.studies.record import Record, Trained
from evaluate.studies.statistics import Difference, paired_difference, spread

_EXCESS_HEAD = """
**Excess loss of the predictors**: loss of the trained predictor minus that of one fitted to the view type alone, on
projections of the frozen encoder (held-out images), at each measurement over the training; *left* is what a
predictor fitted to all view types together leaves at the end. Each fit takes 100 steps: what it misses shows where
*left* is below 0, and differences of that size mean nothing.

| arm | view type | excess, start → end | difference at the end | detectable | left |
|---|---|---|---|---|---|
"""
_COURSE_HEAD = """
**Trainings**: images seen, pixels of all their views relative to the first arm, largest rise of the loss between two
lines of the log as a share of its whole fall, largest gradient norm over the median one, least spread of the
projections (0 collapsed, 1 even); means over seeds. {log}

| arm | images | pixels | loss rise | {spike}gradient peak | least spread |
|---|---|---|---|{rule}---|---|
"""
_LINES = """The log has a line every 20 steps: the mean loss of these steps,
and the gradient norm of the last one, so that a spike of a single step can be missed."""
_STEPS = """The log has a line every 20 steps. *Loss spike*: largest loss
of a step above its line's mean, as a share of the fall; the gradient norm is the largest of all steps."""


def course_tables(record: Record) -> str:
    """Both tables as Markdown; empty for an older record, which has neither."""
    trained, text = _trained(record), ""
    if rows := [row for arm in trained for row in _excess_rows(record, trained, arm)]:
        text += _EXCESS_HEAD + "\n".join(rows) + "\n"
    if trained and all(run.images for runs in trained.values() for run in runs):
        first = next(iter(trained.values()))[0].pixels
        spikes = all("loss_spike" in run.stability for runs in trained.values() for run in runs)
        text += _COURSE_HEAD.format(
            log=_STEPS if spikes else _LINES, spike="loss spike | " * spikes, rule="---|" * spikes
        )
        text += "\n".join(_course_row(arm, runs, first, spikes) for arm, runs in trained.items()) + "\n"
    return text


def excess(run: Trained, view: str, of: str = "trained") -> list[float]:
    """Loss `of` (`trained` or `together`) minus that of a predictor for the view type alone, at each measurement."""
    return [line[f"{view}/{of}"] - line[f"{view}/alone"] for line in run.predictor if f"{view}/alone" in line]


def _excess_rows(record: Record, trained: Mapping[str, Sequence[Trained]], arm: str) -> list[str]:
    runs = [run for run in trained[arm] if run.predictor]
    rows = []
    for view in _views(runs):
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
    """Cells of the difference to the baseline over common seeds, and of the smallest detectable one."""
    found = _paired_excess(record, trained, arm, view)
    if found is None:
        return " | "
    if found.seeds < 2:
        return f"{found.mean:+.3f} (one seed) | –"
    text = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    return f"{f'**{text}**' if found.clear else text} | {found.detectable:.3f}"


def excess_differences(record: Record) -> list[Difference]:
    """Differences of excess losses between arms and their baselines, all view types."""
    trained = _trained(record)
    found = [_paired_excess(record, trained, arm, view) for arm in trained for view in _views(trained[arm])]
    return [each for each in found if each is not None]


def _paired_excess(
    record: Record, trained: Mapping[str, Sequence[Trained]], arm: str, view: str
) -> Difference | None:  # fmt: skip
    own, other = (
        {run.seed: values[-1] for run in trained.get(name, ()) if (values := excess(run, view))}
        for name in (arm, record.baselines[arm])
    )
    common = sorted(own.keys() & other.keys())
    return paired_difference([own[seed] for seed in common], [other[seed] for seed in common]) if common else None


def _trained(record: Record) -> dict[str, list[Trained]]:
    """Trainings by arm, in order."""
    trained = {arm: [each for each in record.trained if each.arm == arm] for arm in record.baselines}
    return {arm: runs for arm, runs in trained.items() if runs}


def _views(runs: Sequence[Trained]) -> list[str]:
    """View types whose predictors were measured."""
    lines = [run.predictor[-1] for run in runs if run.predictor]
    return list(dict.fromkeys(key.partition("/")[0] for line in lines for key in line if "/" in key))


def _course_row(arm: str, runs: Sequence[Trained], first: int, spikes: bool) -> str:
    shares = ["loss_rise", *["loss_spike"] * spikes]
    cells = [f"{runs[0].images:,}", f"{runs[0].pixels / first:.2f} ×"]
    for key in (*shares, "gradient_peak", "spread_least"):
        values = [run.stability[key] for run in runs if key in run.stability]
        mean = sum(values) / len(values) if values else math.nan
        cells.append("–" if math.isnan(mean) else f"{mean:.0%}" if key in shares else f"{mean:.2f}")
    return f"| {arm} | {' | '.join(cells)} |"
