"""Learning rates that decay from layer to layer, by the engine's own rule, without its page of output."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from mmseg.engine.optimizers import LearningRateDecayOptimizerConstructor
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class QuietLayerDecay(LearningRateDecayOptimizerConstructor):
    """The engine's constructor prints the name of every parameter, on every process."""

    def add_params(self, *arguments: Any, **options: Any) -> None:
        """What the engine does, to itself."""
        with contextlib.redirect_stdout(io.StringIO()):
            super().add_params(*arguments, **options)
