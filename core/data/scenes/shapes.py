"""The outlines of the eight object classes, as signed distance functions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float64]
Outline = Callable[[Field, Field, float], Field]
"""`outline(u, v, form)`: signed distance of each point (u, v) to the outline, negative inside.

The shape lies within the unit circle; `form` in 0 … 1 moves it through its family (thin to thick, slim to full).
Only arithmetic that IEEE 754 rounds exactly works on the fields, so that masks are the same on every machine.
"""


def _planes(u: Field, v: Field, count: int, turn: float) -> list[Field]:
    """Projections of (u, v) on `count` directions, evenly spread from `turn` (radians)."""
    angles = [turn + 2 * math.pi * k / count for k in range(count)]
    return [u * math.cos(angle) + v * math.sin(angle) for angle in angles]


def disc(u: Field, v: Field, form: float) -> Field:
    """An ellipse, 0.75 … 1 as wide as it is long."""
    slim = 0.75 + 0.25 * form
    return (np.sqrt(u * u + (v / slim) ** 2) - 1) * slim


def triangle(u: Field, v: Field, form: float) -> Field:
    """An isosceles triangle from slim (base 1.3) to equilateral (base 1.73)."""
    slim = 0.75 + 0.25 * form
    a, b, c = _planes(u, v / slim, 3, math.pi)
    return (np.maximum(np.maximum(a, b), c) - 0.5) * slim


def square(u: Field, v: Field, form: float) -> Field:
    """A rectangle, 0.7 … 1 as high as it is wide."""
    half = math.sqrt(0.5)
    return np.maximum(np.abs(u) - half, np.abs(v) - half * (0.7 + 0.3 * form))


def star(u: Field, v: Field, form: float) -> Field:
    """A five-pointed star, slim to full: the points that lie within at least four of five half-planes."""
    largest = second = np.full_like(u, -np.inf)
    for plane in _planes(u, v, 5, 0.0):
        second = np.maximum(second, np.minimum(largest, plane))
        largest = np.maximum(largest, plane)
    # Lines at cos(2π/5) from the centre make the star whose points lie on the unit circle; the pentagon
    # around the centre makes it fuller without moving the points.
    return np.minimum(second - math.cos(2 * math.pi / 5), largest - (0.31 + 0.14 * form))


def ring(u: Field, v: Field, form: float) -> Field:
    """A ring whose hole is 0.62 … 0.38 of its diameter."""
    hole = 0.62 - 0.24 * form
    return np.abs(np.sqrt(u * u + v * v) - (1 + hole) / 2) - (1 - hole) / 2


def cross(u: Field, v: Field, form: float) -> Field:
    """A plus sign with arms 0.44 … 0.7 wide."""
    half = 0.22 + 0.13 * form
    u, v = np.abs(u), np.abs(v)
    reach = math.sqrt(1 - half * half)
    return np.minimum(np.maximum(u - reach, v - half), np.maximum(v - reach, u - half))


def crescent(u: Field, v: Field, form: float) -> Field:
    """A disc with a bite of radius 0.8 out of its side, 0.75 … 1 at its thickest."""
    away = 0.55 + 0.25 * form
    return np.maximum(np.sqrt(u * u + v * v) - 1, 0.8 - np.sqrt((u - away) ** 2 + v * v))


def hexagon(u: Field, v: Field, form: float) -> Field:
    """A hexagon, stretched by 1 … 1.3 along one axis."""
    slim = 0.77 + 0.23 * form
    a, b, c, *_ = _planes(u, v / slim, 6, 0.0)
    return (np.maximum(np.maximum(np.abs(a), np.abs(b)), np.abs(c)) - math.cos(math.pi / 6)) * slim
