"""The outlines of the classes: closed-form areas, and distances that bound the true ones."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core.data.scenes import shapes
from core.data.scenes.render import CLASSES


def lens(r: float, s: float, d: float) -> float:
    """Area shared by two circles of radius r and s whose centres are d apart."""
    a, b = (d * d + r * r - s * s) / (2 * d * r), (d * d + s * s - r * r) / (2 * d * s)
    kite = math.sqrt((-d + r + s) * (d + r - s) * (d - r + s) * (d + r + s)) / 2
    return r * r * math.acos(a) + s * s * math.acos(b) - kite


AREAS = [
    (shapes.disc, 0.0, 0.75 * math.pi),
    (shapes.disc, 1.0, math.pi),
    (shapes.triangle, 1.0, 3 * math.sqrt(3) / 4),
    (shapes.triangle, 0.0, 0.75 * 3 * math.sqrt(3) / 4),
    (shapes.square, 1.0, 2.0),
    (shapes.square, 0.0, 1.4),
    (shapes.star, 0.0, 5 * math.sin(math.pi / 5) * math.cos(2 * math.pi / 5) / math.cos(math.pi / 5)),
    (shapes.ring, 0.0, math.pi * (1 - 0.62**2)),
    (shapes.ring, 1.0, math.pi * (1 - 0.38**2)),
    (shapes.cross, 0.0, 8 * 0.22 * math.sqrt(1 - 0.22**2) - 0.44**2),
    (shapes.crescent, 0.0, math.pi - lens(1, 0.8, 0.55)),
    (shapes.crescent, 1.0, math.pi - lens(1, 0.8, 0.8)),
    (shapes.hexagon, 1.0, 3 * math.sqrt(3) / 2),
]


@pytest.mark.parametrize(("outline", "form", "area"), AREAS)
def test_outlines_enclose_their_closed_form_areas(outline, form, area):
    steps = (np.arange(1200) + 0.5) / 500 - 1.2
    u, v = np.meshgrid(steps, steps)
    inside = outline(u, v, form) <= 0
    assert inside.sum() / 500**2 == pytest.approx(area, rel=3e-3)
    assert (u * u + v * v)[inside].max() <= 1.001


@pytest.mark.parametrize("outline", [outline for outline, _ in CLASSES.values()])
def test_distances_never_exceed_the_true_ones(outline):
    """|distance| is at most the way to the nearest point of the other side: no edge is sharper than one pixel."""
    steps = (np.arange(120) + 0.5) / 50 - 1.2
    u, v = np.meshgrid(steps, steps)
    field = outline(u, v, 0.4)
    points = np.stack([u, v], -1)
    for side in (field <= 0, field > 0):
        way = np.sqrt(((points[side][::9, None] - points[~side][None]) ** 2).sum(-1)).min(1)
        assert (np.abs(field[side][::9]) <= way + 1e-9).all()
