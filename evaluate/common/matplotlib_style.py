"""Charts are drawn by Matplotlib, which is optional."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

from core.errors import UserError
from core.project import extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,  # a class may be called $5
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "ssl-transfer",
}


def check_matplotlib(what: str) -> None:
    """`UserError` where Matplotlib isn't installed; loads nothing. `what` needs it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(f"{what} needs Matplotlib: {extra('report')}")


def style() -> Any:
    """A context in which figures of this project are made and saved."""
    if "matplotlib" not in sys.modules:
        # A notebook's child processes inherit its MPLBACKEND, a module that this environment may lack; figures are
        # drawn here without a backend.
        os.environ["MPLBACKEND"] = "agg"
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` × `height` pixels at 72 per inch, drawn without a window or global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
