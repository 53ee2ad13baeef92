"""Charts as SVG within the page: text stays text, colours are the page's, so that they suit a dark page as well."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from evaluate.common.matplotlib_style import new_figure, style
from evaluate.tables.report.style import css_colours, row_style

_INK, _GRID = "#010203", "#0a0b0c"  # stand for the page's own colours, so nothing else may have them
_WIDTH = 360
_MOST_POINTS = 300


@dataclass(frozen=True)
class Line:
    """One run in a line chart."""

    row: int
    """Row of the table; it determines colour, mark and dash."""
    xs: Sequence[float]
    ys: Sequence[float]
    """As many as `xs`."""


@dataclass(frozen=True)
class Bars:
    """One backbone in a bar chart."""

    row: int
    """Row of the table; it determines the colour."""
    values: Sequence[float | None]
    """One for each name; None draws none."""
    spreads: Sequence[float | None]
    """Half the length of each whisker; None draws none."""


def line_chart(name: str, text: str, lines: Sequence[Line], x_label: str, y_label: str) -> Markup:
    """Lines over a shared axis. `name`: unique in the page; `text`: alternative text for screen readers."""
    with style():
        figure = new_figure(_WIDTH, 230)
        axes = _axes(figure, "both")
        for line in lines:
            xs, ys = thinned(line.xs), thinned(line.ys)
            seen = row_style(line.row)
            axes.plot(
                xs, ys, seen.dash, color=seen.light, linewidth=1.6, marker=seen.mark, markersize=4,
                markevery=max(1, len(xs) // 8),
            )  # fmt: skip
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return _inline(figure, name, text)


def bar_chart(name: str, text: str, names: Sequence[str], groups: Sequence[Bars], x_label: str) -> Markup:
    """Horizontal bars: for each name one of every group, in order from above. `name`, `text`: as in `line_chart`."""
    thick = 0.84 / len(groups)
    with style():
        figure = new_figure(_WIDTH, 54 + len(names) * max(16, 4 + 7 * len(groups)))
        axes = _axes(figure, "x")
        for number, group in enumerate(groups):
            there = [i for i, value in enumerate(group.values) if value is not None]
            offset = (number - (len(groups) - 1) / 2) * thick
            axes.barh(
                [i + offset for i in there],
                [group.values[i] or 0.0 for i in there],
                height=0.86 * thick,
                color=row_style(group.row).light,
            )
            spread = [i for i in there if group.spreads[i]]
            axes.errorbar(
                [group.values[i] or 0.0 for i in spread],
                [i + offset for i in spread],
                xerr=[group.spreads[i] or 0.0 for i in spread],
                fmt="none",
                ecolor=_INK,
                elinewidth=0.8,
            )
        axes.set_yticks(range(len(names)), [cut(one) for one in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        if all((value or 0) >= 0 for group in groups for value in group.values):
            axes.set_xlim(left=0)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(x_label)
        return _inline(figure, name, text)


def thinned(values: Sequence[float]) -> list[float]:
    """Every n-th value and the last, at most about 300: more are indistinguishable at this width."""
    stride = math.ceil(len(values) / _MOST_POINTS)
    return [*values[::stride], *([values[-1]] if stride > 1 and (len(values) - 1) % stride else [])]


def cut(text: str, most: int = 22) -> str:
    """At most `most` characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _axes(figure: Any, grid: str) -> Any:
    axes = figure.add_subplot()
    axes.grid(axis=grid, color=_GRID, linewidth=0.6)
    axes.spines[:].set_color(_GRID)
    axes.tick_params(color=_GRID, labelcolor=_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    return axes


def _inline(figure: Any, name: str, text: str) -> Markup:
    stream = io.StringIO()
    figure.savefig(
        stream, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
    )
    drawn = stream.getvalue()
    drawn = drawn[drawn.index("<svg ") :]
    # Within a page its style would hold for all of it, so the page has it instead.
    drawn = re.sub(r"<style[^>]*>.*?</style>", "", drawn, count=1, flags=re.DOTALL)
    # Several charts share the page, so each needs names of its own.
    drawn = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", drawn)
    for colour, variable in {_INK: "currentColor", _GRID: "var(--line)", **css_colours()}.items():
        drawn = drawn.replace(colour, variable)
    box = re.search(r'viewBox="[^"]*"', drawn)
    assert box is not None
    opening = f'<svg role="img" aria-label="{html.escape(text)}" class="chart" {box[0]}>'
    return Markup(re.sub(r"^<svg [^>]*>", lambda _: opening, drawn))
