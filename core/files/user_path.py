"""Paths as users write them."""

from __future__ import annotations

from pathlib import Path


def user_path(text: str) -> Path:
    """Path named by `text`, literally, except that a leading `~/` (or `~` alone) is the home folder, where known."""
    if text != "~" and not text.startswith("~/"):
        return Path(text)
    try:
        return Path(text).expanduser()
    except RuntimeError:  # neither HOME nor an entry in the user database
        return Path(text)
