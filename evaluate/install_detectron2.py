"""Installs Detectron2, without a compiler and without git. `python evaluate/install_detectron2.py`"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from converters.engines.detectron2_install import main
from core.errors import run_entry_point

if __name__ == "__main__":
    run_entry_point(main)
