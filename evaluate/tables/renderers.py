"""The transfer table as Markdown, CSV and LaTeX; every number leads to its result.json or its paper."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from evaluate.common.metrics import LOWER, Metric
from evaluate.tables.transfer_table import Cell, Column, Row, TransferTable

SCALED_DOWN, MODIFIED, UNCONFIRMED = "†", "‡", "§"
_MARKS = {
    SCALED_DOWN: "scaled down to run on a small machine: no paper has numbers of this protocol",
    MODIFIED: "settings of the protocol were changed: compare with nothing but itself",
}
NOISE = "≈"
NOISE_MEANING = (
    "differs from the best number of its column by less than twice the standard deviation that seeds and arithmetic "
    "of the evaluation alone give (`noise` of the protocol): not ranked below it"
)
_MOST_NAMES = 3
"""Protocols that the note on unmeasured noise names."""
UNCONFIRMED_MEANING = "published, but confirmed by no source outside the paper: nothing is compared with it"
_CSV = (
    *("row", "published", "row_source", "protocol", "metric", "data", "scaled_down", "modified", "mean", "std"),
    *("std_over", "runs"),
    *("values", "seeds", "published_value", "delta", "published_source", "note", "results"),
    *("unit", "better", "unconfirmed", "protocol_version"),
)


def render(table: TransferTable, form: str, place: Path) -> str:
    """`form`: markdown, csv or latex. Paths in the text are relative to the folder `place`, where it will lie."""
    forms: dict[str, Callable[[TransferTable, Path], str]] = {"markdown": markdown, "csv": as_csv, "latex": latex}
    return forms[form](table, place)


def markdown(table: TransferTable, place: Path) -> str:
    """A table of columns side by side, with links from the seeds to their result.json, and notes below it."""
    head = ["backbone", *(_marked(column) for column in table.columns)]
    lines = [_pipes(head), "|---" * len(head) + "|"]
    for y, row in enumerate(table.rows):
        cells = [
            _markdown_cell(table.cells.get((y, x)), column.metric, place) for x, column in enumerate(table.columns)
        ]
        lines.append(_pipes([_named(row), *cells]))
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(table))])


def as_csv(table: TransferTable, place: Path) -> str:
    """One line per cell, for further analysis; several values, seeds and results are separated by spaces."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_CSV)
    for (y, x), cell in sorted(table.cells.items()):
        row, column, theirs = table.rows[y], table.columns[x], cell.published
        writer.writerow([
            row.name, row.published, row.source, column.protocol, column.metric.key, column.data, column.scaled_down,
            column.modified, round(cell.mean, 4), "" if cell.std is None else round(cell.std, 4),
            "" if cell.std is None else " ".join(map(str, cell.counted)),
            len(cell.paths), " ".join(f"{value:g}" for value in cell.values), " ".join(map(str, cell.seeds)),
            "" if theirs is None else theirs.value, "" if cell.delta is None else round(cell.delta, 4),
            "" if theirs is None else theirs.source, "" if theirs is None else theirs.note,
            " ".join(quote(os.fsencode(_relative(path, place))) for path in cell.paths),
            column.metric.unit, column.metric.better, cell.unconfirmed, column.version,
        ])  # fmt: skip
    return text.getvalue().rstrip("\n")


def latex(table: TransferTable, place: Path) -> str:
    """A tabular for the package booktabs; comments behind a row name the result.json of each number."""
    lines = [
        "% needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        "\\toprule",
        " & ".join(["backbone", *(_tex(_marked(column)) for column in table.columns)]) + r" \\",
        "\\midrule",
    ]
    for y, row in enumerate(table.rows):
        if row.published and (y == 0 or not table.rows[y - 1].published) and y:
            lines.append("\\midrule")
        cells = [table.cells.get((y, x)) for x in range(len(table.columns))]
        numbers = [_number(cell, column.metric) for cell, column in zip(cells, table.columns, strict=True)]
        lines.append(" & ".join([_tex(row.name), *map(_tex, numbers)]) + r" \\")
        lines += [
            f"% {column.title}: {_origin(cell, place)}"
            for column, cell in zip(table.columns, cells, strict=True)
            if cell is not None
        ]
    lines += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join([*lines, *(f"\\par\\noindent {_tex(note)}" for note in notes(table))])


def notes(table: TransferTable) -> list[str]:
    """Notes below the table: units, marks, deltas, sources of the published rows."""
    sentences = [
        f"{units(table)}; mean ± standard deviation over what the brackets count: networks of other weights "
        "(each the mean of its runs), or runs of one network with other seeds"
    ]
    marks = "".join(_marked(column) for column in table.columns)
    sentences += [f"{mark} {meaning}" for mark, meaning in _MARKS.items() if mark in marks]
    if any(cell.unconfirmed for cell in table.cells.values()):
        sentences.append(f"{UNCONFIRMED} {UNCONFIRMED_MEANING}")
    if any(cell.within_noise for cell in table.cells.values()):
        sentences.append(f"{NOISE} {NOISE_MEANING}")
    if note := unmeasured_noise(table):
        sentences.append(note)
    if any(cell.paths and cell.std is None for cell in table.cells.values()):
        sentences.append(
            "a number of ours without ± is of a single network and measurement: rows that differ by less than networks "
            "or runs of other seeds do are not ranked by it"
        )
    if any(cell.delta is not None for cell in table.cells.values()):
        lower = any(cell.delta is not None and table.columns[x].metric.better == "lower"
                    for (_, x), cell in table.cells.items())  # fmt: skip
        sentences.append(
            "in brackets with a sign: difference to the published number of the same row and protocol"
            + (f"; under {LOWER} a minus is an improvement" if lower else "")
        )
    for y, row in enumerate(table.rows):
        if row.published:
            found = [table.cells[y, x].published for x in range(len(table.columns)) if (y, x) in table.cells]
            remarks = dict.fromkeys(number.note for number in found if number is not None and number.note)
            url = next(number.url for number in found if number is not None)
            sentences.append(
                f"{row.name} (published): {row.source}, {url}" + "".join(f"; {remark}" for remark in remarks)
            )
    return sentences


def unmeasured_noise(table: TransferTable) -> str:
    """Note naming what has several rows of ours but no measured noise; empty if there is nothing of the kind."""
    measured = {column.name for column in table.columns if column.noise is not None}
    rows = Counter(x for (_, x), cell in table.cells.items() if cell.paths)
    found = [column for x, column in enumerate(table.columns) if column.noise is None and rows[x] > 1]
    names = list(dict.fromkeys(column.title if column.name in measured else _short(column) for column in found))
    if not names:
        return ""
    more = [f"{len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
    *before, last = [*names[:_MOST_NAMES], *more]
    listed = f"{', '.join(before)} and {last}" if before else last
    return f"noise was not measured for {listed}: nothing there is marked {NOISE}, and one seed can't rank its rows"


def units(table: TransferTable) -> str:
    """The units of the numbers, as a clause."""
    if all(column.metric.unit == "%" for column in table.columns):
        return "all numbers in percent"
    lower = any(column.metric.better == "lower" for column in table.columns)
    return "numbers in percent, or in the unit of their column" + (f"; {LOWER}: lower is better" if lower else "")


def _markdown_cell(cell: Cell | None, metric: Metric, place: Path) -> str:
    if cell is None or not cell.paths:
        return _number(cell, metric)
    links = [quote(os.fsencode(_relative(path, place))) for path in cell.paths]
    if cell.std is None:
        return f"[{metric.text(cell.mean)}]({links[0]}){NOISE * cell.within_noise}{_delta(cell, metric)}"
    count, kind = cell.counted
    distinct = len(set(cell.seeds)) == len(cell.seeds)
    labels = cell.seeds if distinct else range(1, len(links) + 1)
    linked = ", ".join(f"[{number}]({link})" for number, link in zip(labels, links, strict=True))
    number = f"{metric.text(cell.mean)}{NOISE * cell.within_noise} ± {metric.text(cell.std)}"
    return f"{number} ({count} {kind}: {linked}){_delta(cell, metric)}"


def _number(cell: Cell | None, metric: Metric) -> str:
    if cell is None:
        return "–"
    spread = "" if cell.std is None else f" ± {metric.text(cell.std)} ({' '.join(map(str, cell.counted))})"
    marks = UNCONFIRMED * cell.unconfirmed + NOISE * cell.within_noise
    return f"{metric.text(cell.mean)}{marks}{spread}{_delta(cell, metric)}"


def _delta(cell: Cell, metric: Metric) -> str:
    return "" if cell.delta is None else f" ({metric.signed(cell.delta)})"


def _marked(column: Column) -> str:
    return column.title + SCALED_DOWN * column.scaled_down + MODIFIED * column.modified


def _short(column: Column) -> str:
    name, changed, _ = column.protocol.partition(" (modified: ")
    return name + " (modified)" * bool(changed) + column.name.removeprefix(column.protocol)


def _named(row: Row) -> str:
    return f"{row.name} (published)" if row.published else row.name


def _pipes(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _origin(cell: Cell, place: Path) -> str:
    theirs = cell.published.source if cell.published is not None else ""
    return ", ".join(_relative(path, place) for path in cell.paths) or theirs


def _relative(path: Path, place: Path) -> str:
    return Path(os.path.relpath(path, place)).as_posix()


def _tex(text: str) -> str:
    for sign in "\\&%$#_{}":
        text = text.replace(sign, "\\textbackslash " if sign == "\\" else f"\\{sign}")
    for sign, command in (
        ("±", r"$\pm$"),
        ("†", r"$\dagger$"),
        ("‡", r"$\ddagger$"),
        ("§", r"\S{}"),
        ("–", "--"),
        ("×", r"$\times$"),
        ("≈", r"$\approx$"),
        (LOWER, r"$\downarrow$"),
    ):
        text = text.replace(sign, command)
    return text
