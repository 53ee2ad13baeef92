"""docs/findings.md, written from records/*.json: what each study asked, and what its numbers can and can't say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from core.files.atomic_file import write_atomically
from core.project import ROOT
from evaluate.common.metrics import Metric
from evaluate.common.registry import find_description
from evaluate.studies.courses import course_tables, excess_differences
from evaluate.studies.record import FOLDER, Record, arms_with_references, read_record
from evaluate.studies.statistics import CONFIDENCE, Difference

PAGE = ROOT / "docs/findings.md"
_HEAD = """# Findings

Written by `python evaluate/study.py --write-findings` from the records of finished studies in [records](../records).
`±` is the standard deviation over seeds, whose number stands in brackets. A *difference* is the arm minus its baseline,
seed by seed, with the 95 % bootstrap interval over seeds, which is too narrow with few of them. Bold: significant in a
paired t test at 5 %; anything else ranks nothing. *Detectable* is the smallest true difference that this test finds
in four of five studies with so many seeds and this spread. *All arms with* a level: the mean of the differences of the
arms above that have it, seed by seed, over the seeds that all of them have; their number stands in brackets.
*Untrained* is the network of the first arm. A study of one seed shows the commands, the scale and the order of
magnitude; it ranks no arm.

{tested} differences on this page are tested, {clear} are bold; about {chance:.0f} would be if there were none at all.
"""


def summary(record: Record) -> str:
    """The record's tables as Markdown."""
    lines = []
    for protocol in record.protocols():
        kind = next(each.kind for each in record.measured if each.protocol == protocol)
        keys = list(dict.fromkeys(key for each in record.measured if each.protocol == protocol for key in each.metrics))
        metrics = [find_description(kind).metric(key) for key in keys]
        lines += ["", f"**{protocol}**", ""]
        heads = [f"{metric.head} | difference | detectable" for metric in metrics]
        lines += [f"| arm | {' | '.join(heads)} |", "|---|" + "---|" * 3 * len(metrics)]
        for arm in arms_with_references(record):
            cells = []
            for metric in metrics:
                mean, deviation, count = record.mean_and_spread(arm, protocol, metric.key)
                difference = record.difference(arm, protocol, metric.key) if arm in record.baselines else None
                cells += [_mean(metric, mean, deviation, count), *_difference(metric, difference, count)]
            lines.append(f"| {arm} | {' | '.join(cells)} |")
        pooled = [record.pooled_differences(protocol, metric.key) for metric in metrics]
        for level in pooled[0]:
            cells = [
                cell
                for metric, each in zip(metrics, pooled, strict=True)
                for cell in ("", *_difference(metric, each.get(level), 0))
            ]
            lines.append(f"| *all arms with* {level} | {' | '.join(cells)} |")
    return "\n".join(lines[1:]) + "\n"


def page(folder: Path = FOLDER) -> str:
    """The page, from all records of the folder."""
    parts, tested = [], []
    for file in sorted(folder.glob("*.json")):
        record = read_record(file)
        speeds = [each.images_per_second for each in record.trained if math.isfinite(each.images_per_second)]
        compared = _compared(record.baselines)
        parts.append(
            f"\n## {record.question}\n\n"
            f"Study `{record.study}`, recipe `{record.recipe}` ({record.recipe_sha256[:8]})"
            f"{' with ' + ', '.join(f'`{each}`' for each in record.settings) if record.settings else ''}; "
            f"{len(record.trained)} trainings at {_range(speeds)} images/s, measured on {record.device}; "
            f"{record.date}, revision {record.git_revision}, "
            f"torch {record.libraries.get('torch', 'unknown')}. {compared}\n\n"
            f"{summary(record)}{course_tables(record)}"
        )
        tested += [each for each in (*differences(record), *excess_differences(record)) if each.seeds > 1]
    clear, chance = sum(each.clear for each in tested), len(tested) * (1 - CONFIDENCE)
    return "".join([_HEAD.format(tested=len(tested), clear=clear, chance=chance), *parts])


def differences(record: Record) -> list[Difference]:
    """All differences of the record's evaluations, of single arms and of levels."""
    keys = dict.fromkeys((each.protocol, key) for each in record.measured for key in each.metrics)
    single = [record.difference(arm, *key) for key in keys for arm in record.baselines]
    pooled = [found for key in keys for found in record.pooled_differences(*key).values()]
    return [each for each in single if each is not None] + pooled


def _compared(baselines: Mapping[str, str]) -> str:
    """Sentence on what the arms are compared with; empty where none is."""
    order = list(baselines)
    if not any(baselines.values()):
        return ""
    if all(baseline in ("", before) for baseline, before in zip(baselines.values(), ["", *order], strict=False)):
        return "Each arm is compared with the arm above it."
    return f"Compared: {'; '.join(f'{arm} with {other}' for arm, other in baselines.items() if other)}."


def write_page() -> Path:
    """Writes docs/findings.md."""
    text = page()
    write_atomically(PAGE, lambda partial: partial.write_text(text, encoding="utf-8"))
    return PAGE


def _range(speeds: Sequence[float]) -> str:
    """Smallest to largest, or one number where both read the same."""
    return " to ".join(dict.fromkeys(f"{end(speeds, default=0):,.0f}" for end in (min, max)))


def _mean(metric: Metric, mean: float, deviation: float, count: int) -> str:
    if not count:
        return "–"
    return metric.text(mean) if count == 1 else f"{metric.text(mean)} ± {metric.text(deviation)} ({count})"


def _difference(metric: Metric, difference: Difference | None, count: int) -> tuple[str, str]:
    """Cells of a difference and of the smallest detectable one; with its seeds where they aren't the arm's `count`."""
    if difference is None:
        return "", ""
    if difference.seeds < 2:
        return f"{metric.signed(difference.mean)} (one seed)", "–"
    low, high = metric.signed(difference.low), metric.signed(difference.high)
    text = f"{metric.signed(difference.mean)} [{low}, {high}]"
    text = f"**{text}**" if difference.clear else text
    return text if difference.seeds == count else f"{text} ({difference.seeds})", metric.text(difference.detectable)
