"""Folder of downloaded and derived files that are kept between runs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from core.errors import UserError
from core.files.user_path import user_path
from core.project import INSTALLED, ROOT


def cache_folder() -> Path:
    """`$SSL_TRANSFER_CACHE`; else `.cache/ssl-transfer` below a checkout that may be written to.

    For an installed package and a read-only checkout it is `ssl-transfer` below `$XDG_CACHE_HOME` or `~/.cache`, and
    without a home folder `ssl-transfer-UID` below the folder of temporary files. Raises `UserError` if that belongs to
    another user.
    """
    if given := os.environ.get("SSL_TRANSFER_CACHE"):
        return user_path(given)
    own = ROOT / ".cache" / "ssl-transfer"
    if not INSTALLED and _is_writable(own):
        return own
    if (shared := os.environ.get("XDG_CACHE_HOME", "")) and Path(shared).is_absolute():
        return Path(shared) / "ssl-transfer"
    home = user_path("~/.cache/ssl-transfer")
    return home if home.is_absolute() and _is_writable(home) else _temporary()


def _is_writable(folder: Path) -> bool:
    """True if the folder, or else the nearest existing one above it, may be written to."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(existing, os.W_OK | os.X_OK)


def _temporary() -> Path:
    """Folder of this user alone: others could put files of theirs into one that they own."""
    folder = Path(tempfile.gettempdir()) / f"ssl-transfer-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.lstat().st_uid
    except OSError as error:
        raise UserError(f"can't make the cache folder {folder} ({error.strerror}); set SSL_TRANSFER_CACHE") from None
    if owner != os.getuid() or folder.is_symlink():
        raise UserError(f"the cache folder {folder} belongs to another user; set SSL_TRANSFER_CACHE")
    return folder
