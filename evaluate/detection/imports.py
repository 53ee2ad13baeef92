"""Whether Detectron2 can be imported here, with the mends it needs; to be called before anything that imports it."""

from __future__ import annotations

import logging
import warnings

from converters.engines import detectron2_compat
from core.errors import UserError


def check_detectron2() -> None:
    """Raises `UserError` with the way to install it where it is missing or broken."""
    detectron2_compat.install_hook()
    # Ours are the lines to read; its own say the same at length, and its age shows in warnings of torch.
    for name in ("detectron2", "fvcore"):
        logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger(name).addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*torch.meshgrid.*")
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # decoded masks, then copied
    try:
        import detectron2.engine
        import detectron2.evaluation
        import detectron2.modeling  # noqa: F401
    except (ImportError, AttributeError) as error:  # the latter: a build that today's NumPy, Pillow or torch break
        raise UserError(
            f"Detectron2 can't be imported ({error}); run pip install -e '.[detection]' and "
            f"python evaluate/install_detectron2.py"
        ) from None
