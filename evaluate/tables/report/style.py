"""One colour, mark and dash for each backbone, the same in every part of the page."""

from __future__ import annotations

from dataclasses import dataclass

_SHADES = (
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#ff9a4d"),
    ("#00795b", "#2fcf9f"),
    ("#aa4499", "#e79ad6"),
    ("#8a6a00", "#e5c043"),
    ("#5a5a5a", "#b4b4b4"),
    ("#882255", "#f07fa8"),
    ("#332288", "#a49cf5"),
)
"""On a light and on a dark page, at least 3 : 1 against it."""
_MARKS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖", "*": "★"}
"""Matplotlib's name of a mark -> the same in text."""
_DASHES = ("-", "--", ":")


@dataclass(frozen=True)
class RowStyle:
    """Colour, mark and dash of a backbone."""

    light: str
    """Colour on a light page, #rrggbb."""
    variable: str
    """Name of the page's CSS variable that holds it, e.g. `--c0`; another colour on a dark page."""
    mark: str
    """Matplotlib's name of the mark."""
    glyph: str
    """The mark in text."""
    dash: str
    """Matplotlib's name of the line style."""


def row_style(number: int) -> RowStyle:
    """Style of the backbone in row `number`; colours repeat after eight, with other marks and dashes."""
    colour = number % len(_SHADES)
    mark = list(_MARKS)[(number + number // len(_SHADES)) % len(_MARKS)]
    return RowStyle(
        _SHADES[colour][0], f"--c{colour}", mark, _MARKS[mark], _DASHES[number // len(_SHADES) % len(_DASHES)]
    )


def variables(dark: bool) -> str:
    """CSS that gives every colour its value."""
    return " ".join(f"--c{number}: {shades[dark]};" for number, shades in enumerate(_SHADES))


def css_colours() -> dict[str, str]:
    """Colours as charts are drawn -> what stands for them in CSS."""
    return {light: f"var(--c{number})" for number, (light, _) in enumerate(_SHADES)}
