"""Curves, scores per class and pictures of the page, and sentences about those that are missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from evaluate.common.metrics import Metric
from evaluate.common.pictures import FOLDER, picture_kinds
from evaluate.tables.report.charts import Line, bar_chart, line_chart
from evaluate.tables.report.curves import MONITOR, VIEW, Run, find_run
from evaluate.tables.report.gallery import Gallery, embed, galleries
from evaluate.tables.report.grouping import Group, Measured
from evaluate.tables.report.per_class import PerClass, per_class
from evaluate.tables.transfer_table import TransferTable

_OTHER_PICTURES = "Other pictures"


def curve_panels(table: TransferTable, measured: Sequence[Measured]) -> dict[str, Any]:
    """`panels`, `curve_rows` and `curve_sentences` of the template."""
    runs: dict[Path, tuple[int, Run]] = {}
    reasons: dict[str, dict[int, None]] = {}
    for one in measured:
        found = find_run(one.result.document["checkpoint"])
        if isinstance(found, Run):
            runs.setdefault(found.folder, (one.row, found))
        else:
            reasons.setdefault(found, {})[one.row] = None
    keys = dict.fromkeys(key for _, run in runs.values() for key in run.series)
    shown = [*(key for key in keys if key != MONITOR), *([MONITOR] if MONITOR in keys else [])]
    panels = []
    for number, key in enumerate(shown):
        lines = [
            Line(row, *run.series[key])
            for row, run in sorted(runs.values(), key=lambda one: one[0])
            if key in run.series
        ]
        title, unit = _panel(key)
        ends = "; ".join(f"{table.rows[line.row].name}: {line.ys[-1]:.2f} at epoch {line.xs[-1]:g}" for line in lines)
        text = f"{title} over epochs. At the end: {ends}."
        panels.append({"title": title, "chart": line_chart(f"curve{number}", text, lines, "epoch", unit)})
    sentences = [
        f"{run.damaged} of {run.lines} lines of {run.folder / 'metrics.jsonl'} are damaged and left out."
        for _, run in runs.values()
        if run.damaged
    ]
    sentences += [
        f"{folder / 'metrics.jsonl'} holds no curves yet." for folder, (_, run) in runs.items() if not run.series
    ]
    if runs and MONITOR not in keys:
        sentences.append(
            "No run watched k-NN accuracy while it trained (monitor.every_epochs=0), so there is no such curve."
        )
    sentences += [f"No training curves of {_named(table, rows)}: {reason}." for reason, rows in reasons.items()]
    if not measured:
        sentences.append("No training curves: nothing was measured here.")
    rows = sorted({row for row, _ in runs.values()})
    return {"panels": panels, "curve_rows": rows, "curve_sentences": sentences}


def class_charts(table: TransferTable, groups: Sequence[Group]) -> dict[str, Any]:
    """`classes` and `class_rows` of the template."""
    found = [(group, one) for group in groups for one in per_class(group)]
    return {
        "classes": [_class_chart(table, group, one, f"class{number}") for number, (group, one) in enumerate(found)],
        "class_rows": sorted({bars.row for _, one in found for bars in one.groups}),
    }


def picture_galleries(table: TransferTable, groups: Sequence[Group]) -> dict[str, Any]:
    """`pictures` and `picture_sentences` of the template."""
    parts, sentences = [], []
    without: list[str] = []
    for group in groups:
        found, unreadable = galleries(group)
        sentences += [f"A picture can't be read: {one}." for one in unreadable]
        if found:
            shown = [_gallery(table, gallery) for gallery in found]
            parts.append({"protocol": group.protocol, "data": group.data, "galleries": shown})
        else:
            without.append(group.protocol)
    if without:
        sentences.append(
            f"No pictures of {', '.join(dict.fromkeys(without))}. k-NN, detection and segmentation write some when "
            f"they are called with --draw 4."
        )
    if not groups:
        sentences.append("No pictures: nothing was measured here.")
    return {"pictures": parts, "picture_sentences": sentences}


def _panel(key: str) -> tuple[str, str]:
    if key == MONITOR:
        return "k-NN accuracy of the monitor (a small sample)", "top-1, %"
    return f"Loss of view type {key.removeprefix(VIEW)}", "loss"


def _class_chart(table: TransferTable, group: Group, one: PerClass, name: str) -> dict[str, Any]:
    rows = [bars.row for bars in one.groups]
    sentences = [f"{len(one.names)} of {one.total} classes, those in which backbones differ most."]
    sentences = sentences if len(one.names) < one.total else []
    if any(spread for bars in one.groups for spread in bars.spreads):
        sentences.append("Whiskers: one standard deviation over seeds.")
    if one.missing:
        sentences.append(f"Not in the results of {_named(table, one.missing)}.")
    title = one.metric.head
    text = f"Bars, {one.metric.head}, of {_named(table, rows)}; the numbers stand below in a table."
    lines = [
        {"name": class_name, "values": [_number(bars.values[place], one.metric) for bars in one.groups]}
        for place, class_name in enumerate(one.names)
    ]
    return {
        "protocol": group.protocol,
        "data": group.data,
        "title": title[0].upper() + title[1:],
        "chart": bar_chart(name, text, one.names, one.groups, one.metric.unit),
        "sentence": " ".join(sentences),
        "rows": rows,
        "lines": lines,
    }


def _gallery(table: TransferTable, gallery: Gallery) -> dict[str, Any]:
    sentences = []
    if gallery.more:
        sentences.append(f"{gallery.more} more beside each result.json, in {FOLDER}.")
    if gallery.missing:
        sentences.append(f"No such pictures of {_named(table, gallery.missing)}.")
    names = [
        [
            {
                "row": one.row,
                "seed": one.seed,
                "caption": one.picture.caption,
                "alt": f"{gallery.kind or name} of {table.rows[one.row].name}",
                "embedded": embed(one.picture.path),
            }
            for one in shown
        ]
        for name, shown in gallery.names
    ]
    return {
        "title": picture_kinds().get(gallery.kind, _OTHER_PICTURES),
        "names": names,
        "sentence": " ".join(sentences),
    }


def _named(table: TransferTable, rows: Iterable[int]) -> str:
    return ", ".join(table.rows[row].name for row in rows)


def _number(value: float | None, metric: Metric) -> str:
    return "–" if value is None else metric.text(value)
