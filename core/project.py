"""Folders of the project itself: where its protocols and recipes lie."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""Folder that holds the front doors' packages and `configs`."""
CONFIGS = ROOT / "configs"
"""Protocols, recipes, suites and published numbers, as YAML."""
