"""What one kind of fuzzing is made of."""

from __future__ import annotations

import random
from collections.abc import Callable

Trial = Callable[[random.Random], None]
"""Damages an original, opens it and checks what must hold; a refusal escapes as `UserError` or `BrokenImage`."""
