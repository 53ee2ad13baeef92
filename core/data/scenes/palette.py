"""Colours of label maps."""

from __future__ import annotations

import numpy as np

COLOURS = np.array(
    [
        (0, 0, 0),
        (230, 60, 60),
        (60, 170, 75),
        (255, 220, 50),
        (70, 100, 220),
        (245, 130, 50),
        (150, 50, 180),
        (70, 220, 235),
        (240, 90, 225),
    ],
    dtype=np.uint8,
)
"""Colour of background and classes in a label map of the scenes, uint8 [9, 3]."""
