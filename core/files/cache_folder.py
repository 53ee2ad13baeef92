"""Folder of downloaded and derived files that are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

from core.files.user_path import user_path
from core.project import ROOT


def cache_folder() -> Path:
    """`$SSL_TRANSFER_CACHE`, or `.cache/ssl-transfer` below the project's root."""
    given = os.environ.get("SSL_TRANSFER_CACHE")
    return user_path(given) if given else ROOT / ".cache" / "ssl-transfer"
