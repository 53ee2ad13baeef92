"""Metrics: the numbers an evaluation reports, with their titles, units and directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LOWER = "↓"
"""Mark of a column in which lower is better."""


@dataclass(frozen=True)
class Metric:
    """One number of a result, as tables and charts show it."""

    key: str
    """Key in result.json's `metrics`."""
    title: str
    """Column head, without the unit."""
    unit: str = "%"
    """Unit of the stored value; empty for a plain number."""
    better: Literal["higher", "lower"] = "higher"
    """Direction in which a backbone improves."""
    digits: int = 1
    """Decimals shown in tables."""

    def text(self, value: float) -> str:
        """The value as tables show it, without the unit."""
        return f"{value:.{self.digits}f}"

    def signed(self, difference: float) -> str:
        """A difference of two values, with its sign."""
        return f"{difference:+.{self.digits}f}"

    @property
    def head(self) -> str:
        """Title, with the unit if it is not a percentage and a mark if lower is better."""
        unit = "" if self.unit in ("%", "") else f" ({self.unit})"
        return self.title + unit + (f" {LOWER}" if self.better == "lower" else "")
