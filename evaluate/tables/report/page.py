"""The report: one HTML file that holds the table, curves, scores of classes, pictures and results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.files.atomic_file import write_atomically
from core.result import git_revision
from evaluate.common.matplotlib_style import check_matplotlib
from evaluate.tables.renderers import units
from evaluate.tables.report.grouping import Measured, group, list_measured
from evaluate.tables.report.page_parts import class_charts, curve_panels, picture_galleries
from evaluate.tables.report.page_table import table_parts
from evaluate.tables.report.provenance import provenance
from evaluate.tables.report.style import row_style, variables
from evaluate.tables.results import StoredResult
from evaluate.tables.transfer_table import TransferTable

TEMPLATE = "page.html"
TITLE = "How well the backbones transfer"


def write_page(table: TransferTable, results: Sequence[StoredResult], folder: Path) -> Path:
    """Writes `folder`/index.html and gives its path; `results` are those that `table` was built from.

    The file needs nothing else: pictures, charts and every result.json are inside, and no script. It reads the
    results' `pictures` folders and, where they still exist, the metrics of the pre-training runs. Raises `UserError`
    where Matplotlib is missing and where the page can't be written.
    """
    check_matplotlib("the report")
    import jinja2

    measured = list_measured(table, results)
    groups = group(table, measured)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template(TEMPLATE).render(
        title=TITLE,
        summary=_summary(table, measured),
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        revision=git_revision(),
        light=variables(dark=False),
        dark=variables(dark=True),
        table=table,
        units=units(table).removeprefix("all numbers ").capitalize(),
        row_styles=[row_style(row) for row in range(len(table.rows))],
        left_out=_left_out(measured, results),
        **table_parts(table, measured),
        **curve_panels(table, measured),
        **class_charts(table, groups),
        **picture_galleries(table, groups),
        provenances=[_result(one, folder) for one in measured],
    )
    path = folder / "index.html"
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8", errors="replace"))
    return path


def _summary(table: TransferTable, measured: Sequence[Measured]) -> str:
    own = sum(not row.published for row in table.rows)
    theirs = len(table.rows) - own
    protocols = len({(column.name, column.data) for column in table.columns})
    counted = (
        (own, "backbone", "backbones"), (protocols, "protocol", "protocols"), (len(measured), "result", "results"),
        (theirs, "row of published numbers", "rows of published numbers"),
    )  # fmt: skip
    return ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counted if count) + "."


def _left_out(measured: Sequence[Measured], results: Sequence[StoredResult]) -> list[str]:
    shown = {one.result.path for one in measured}
    return [
        f"{result.path} is not in the table: another result is of the same run."
        for result in results
        if result.path not in shown
    ]


def _result(one: Measured, folder: Path) -> dict[str, Any]:
    found = provenance(one, folder)
    return {
        "number": one.number,
        "row": one.row,
        "protocol": one.result.document["protocol"],
        "seed": one.seed,
        "facts": found.facts,
        "link": found.link,
        "document": found.document,
    }
